"""Signals that end a command in order."""

import signal
import subprocess
import sys
import threading

import pytest

from evalscope_evalflow.processes.signals import interruptible

CODE = """
import signal, sys, threading
from evalscope_evalflow.processes.signals import interruptible
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
try:
    with interruptible():
        print("ready", flush=True)
        threading.Event().wait(20)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.stdin.readline()  # tidies up, while more signals come
    print("tidied up", flush=True)
    sys.exit(130)
"""


@pytest.fixture
def start():
    started = []

    def start(how="plain"):
        words = [sys.executable, "-c", CODE, how]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_is_an_interruption_and_more_of_them_change_nothing(start, number):
    process = start()
    process.send_signal(number)
    assert process.stdout.readline() == "interrupted\n"
    for again in (signal.SIGHUP, signal.SIGTERM):
        process.send_signal(again)
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert process.stdout.readline() == "tidied up\n"
    assert process.wait(20) == 130


def test_what_is_ignored_stays_so(start):
    process = start("nohup")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "interrupted\n"
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert process.wait(20) == 130


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_in_another_thread_nothing_is_changed():
    seen = []

    def run():
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
