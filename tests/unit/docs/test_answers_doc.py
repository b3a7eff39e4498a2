"""The table of answer kinds is what the clients of both backends make of a server's answers."""

import socket

from answer_doc import SAYS, measured, shown
from scripted_server import ANSWERS


def test_the_table_is_what_both_backends_make_of_each_answer():
    assert list(SAYS) == list(ANSWERS)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    assert shown() == measured(port)
