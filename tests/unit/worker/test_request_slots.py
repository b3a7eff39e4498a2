"""Requests at once to one API, shared among workers."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.sweep.jobs import judge_slots, request_slots
from evalscope_evalflow.worker.request_slots import RequestSlots

HOLD = """
import sys
from evalscope_evalflow.worker.request_slots import RequestSlots
with RequestSlots(sys.argv[1], 1).one():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_no_more_than_that_many_at_once(tmp_path):
    workers = [RequestSlots(tmp_path / "slots", 3) for _ in range(2)]
    counting, now, most = threading.Lock(), 0, 0
    together = threading.Barrier(3)

    def request(number):
        nonlocal now, most
        with workers[number % 2].one():
            with counting:
                now += 1
                most = max(most, now)
            together.wait(timeout=30)  # three are there at the same time, each time
            with counting:
                now -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(request, range(24)))
    assert (now, most) == (0, 3)


def test_a_slot_is_free_when_its_process_is_dead(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        taken = threading.Event()

        def wait():
            with RequestSlots(tmp_path, 1).one():
                taken.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not taken.wait(0.3)
        other.kill()
        thread.join(timeout=30)
        assert taken.is_set()


def test_models_of_one_api_share_its_largest_limit():
    one, two = "http://127.0.0.1:9/v1", "http://127.0.0.1:8/v1/chat/completions"
    models = [
        {"name": "a", "api_url": one, "deploy": {"max_num_seqs": 3}},
        {"name": "b", "api_url": f"{one}/", "deploy": {"max_num_seqs": 5}},
        {"name": "c", "api_url": two},
        {"name": "d", "path": "/d"},
    ]
    slots = request_slots(Task.parse({"datasets": ["gsm8k"], "evalflow": {"backend": "Native", "models": models}}))
    assert sorted(slots) == ["a", "b"]
    assert slots["a"] == slots["b"]
    assert slots["a"][1] == 5


def test_models_of_a_sweep_share_the_judges_limit():
    models = [{"path": "/a"}, {"path": "/b"}]
    judge = {"models": [{"model_id": "j", "api_url": "http://127.0.0.1:9/v1"}]}
    section = {"backend": "Native", "models": models, "judge_max_num_seqs": 3}
    task = Task.parse({"datasets": ["gsm8k"], "judge": judge, "evalflow": section})
    slots = judge_slots(task)
    assert slots is not None
    assert slots[1] == 3
    assert judge_slots(Task.parse({"datasets": ["gsm8k"], "evalflow": section})) is None
    assert judge_slots(Task.parse({"datasets": ["gsm8k"], "judge": judge, "evalflow": {"models": models[:1]}})) is None
