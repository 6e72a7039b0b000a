"""The client without `async`: the same answers, blocks that stop what runs, Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from llama4sdk import Deadlines, InvalidRequest, Overloaded, Sampling, TextDelta
from llama4sdk.sync import Llama4
from llama4sdk.testing import ScriptedBackend


def test_chat_and_stream_give_the_same_text() -> None:
    with Llama4(ScriptedBackend("one two three")) as llama:
        assert llama.chat("a").text == "one two three"
        with llama.stream("a") as stream:
            assert "".join(stream.text()) == "one two three"
            assert stream.result().finish_reason == "stop"
        with llama.stream("a") as stream:
            texts = [event.text for event in stream if isinstance(event, TextDelta)]
        assert texts == ["one", " two", " three"]


def test_leaving_the_block_stops_the_generation() -> None:
    backend = ScriptedBackend("one two three", pause=0.05)
    with Llama4(backend) as llama:
        with llama.stream("a") as stream:
            next(stream)
        assert backend.running == 0


def test_cancel_works_from_another_thread() -> None:
    with Llama4(ScriptedBackend(["one", 60.0])) as llama, llama.stream("a") as stream:
        texts = stream.text()
        assert next(texts) == "one"
        other = threading.Thread(target=stream.cancel)
        other.start()
        assert stream.result().finish_reason == "cancelled"
        other.join()


def test_map_yields_outcomes() -> None:
    with Llama4(ScriptedBackend()) as llama:
        with llama.map(["a", "b"], ordered=True, progress=False) as outcomes:
            assert [outcome.result().text for outcome in outcomes] == ["a", "b"]
        with llama.map(["a", "b", "c"], progress=False) as outcomes:
            next(outcomes)


def test_run_calls_the_tools() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    with Llama4(ScriptedBackend("[add(a=1, b=2)]", "3")) as llama:
        run = llama.run("1 + 2?", tools=[add])
    assert (run.text, run.calls[0].message.text) == ("3", "3")


def test_errors_arrive_as_they_are() -> None:
    with Llama4(ScriptedBackend([Overloaded("busy", retry_after=3)])) as llama:
        with pytest.raises(Overloaded) as caught:
            llama.chat("a")
        assert caught.value.retry_after == 3
        with pytest.raises(InvalidRequest, match="deadlines"):
            llama.chat("a", deadline=Deadlines())  # type: ignore[call-overload]


def test_a_client_is_entered_first_and_once() -> None:
    llama = Llama4(ScriptedBackend())
    with pytest.raises(InvalidRequest, match="with Llama4"):
        llama.chat("a")
    with llama, pytest.raises(InvalidRequest, match="once"):
        llama.__enter__()


LEFT_OPEN = """
import os
from llama4sdk.errors import InvalidRequest
from llama4sdk.sync import Llama4
from llama4sdk.testing import ScriptedBackend
llama = Llama4(ScriptedBackend("one", ["two", 60.0])).__enter__()
assert llama.chat("a").text == "one"
stream = llama.stream("b").__enter__()
assert next(stream.text()) == "two"
child = os.fork()
if child == 0:
    try:
        llama.chat("c")
    except InvalidRequest as error:
        raise SystemExit("another process" not in str(error))
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_client_that_is_left_open_and_one_that_is_forked_keep_no_process_from_its_end() -> None:
    command = [sys.executable, "-W", "ignore", "-c", LEFT_OPEN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_client_is_refused_in_words() -> None:
    with Llama4(ScriptedBackend("one")) as llama:
        pass
    with pytest.raises(InvalidRequest, match="closed"):
        llama.chat("a")


def test_threads_ask_side_by_side() -> None:
    backend = ScriptedBackend("one", pause=0.1)
    most: list[int] = []
    with Llama4(backend) as llama:
        threads = [threading.Thread(target=llama.chat, args=("a",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most.append(backend.running)
            time.sleep(0.005)
    assert max(most) > 1


def test_ctrl_c_stops_the_request_that_is_waited_for() -> None:
    code = (
        "import os, signal, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where tests run in the background
        "from llama4sdk.sync import Llama4\n"
        "from llama4sdk.testing import ScriptedBackend\n"
        "backend = ScriptedBackend([600.0])\n"
        "with Llama4(backend) as llama:\n"
        "    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    try:\n"
        "        llama.chat('a')\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
        "print(backend.running)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["interrupted", "0"], done.stderr


def test_several_answers_come_with_one_call() -> None:
    with Llama4(ScriptedBackend("one", "two", "three")) as llama:
        reply = llama.chat("a", sampling=Sampling(n=3))
    assert {reply.text, *(other.text for other in reply.alternatives)} == {"one", "two", "three"}
