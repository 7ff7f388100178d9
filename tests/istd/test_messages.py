"""What a process tells the others and hears of them, in a group of one that sends its messages to itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from istd.engine.messages import Messages
from istd.engine.process_group import open_ranks
from istd.engine.ranks import Ranks
from istd.engine.runtime import choose_device
from istd.errors import DataError, ProcessError

GONE = RuntimeError("[pair.cc:555] Connection closed by peer [127.0.0.1]:4711\nand more of it")
keeps_words = pytest.mark.skipif(
    not hasattr(dist.ProcessGroup, "get_group_store"), reason="this torch has no store that can be asked for"
)


@pytest.fixture
def messages() -> Iterator[Messages]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        made = Messages(timedelta(seconds=60))
        yield made
        made.close(failed=False)
    finally:
        dist.destroy_process_group()


def test_what_is_sent_comes_back(messages: Messages) -> None:
    ranks = Ranks(0, 1, messages)
    assert ranks.sum(2, 3) == [2, 3]
    assert [ranks.any(flag) for flag in (True, False)] == [True, False]
    assert ranks.from_first(lambda: {"a": (1, None)}) == {"a": (1, None)}
    done: list[str] = []
    with ranks.in_turns(["x", "y"]) as own:
        done += own
    assert ranks.joined(done) == ["x", "y"]
    with ranks.first_goes_first():
        done.append("first")
    ranks.on_first(done.append, "z")
    ranks.wait()
    assert done == ["x", "y", "first", "z"]


@keeps_words
def test_the_first_word_of_a_process_that_fails_is_told_to_the_others(messages: Messages) -> None:
    with pytest.raises(DataError), messages.at_work():
        raise DataError("the image is gone")
    messages.tell(KeyboardInterrupt())  # what follows from the first
    told = r"process 0 of this run has ended(.|\n)*the image is gone"
    with pytest.raises(ProcessError, match=told) as caught, messages.naming():
        raise GONE
    assert "--resume" in str(caught.value)
    assert caught.value.__cause__ is GONE


@keeps_words
@pytest.mark.parametrize(
    ("error", "said"),
    [(KeyboardInterrupt(), "it was told to stop"), (ValueError("odd"), "ValueError: odd")],
)
def test_what_is_said_of_an_end(messages: Messages, error: BaseException, said: str) -> None:
    messages.tell(error)
    with pytest.raises(ProcessError, match=said), messages.naming():
        raise GONE


def test_an_end_without_a_word_is_named_by_its_signs_only(messages: Messages) -> None:
    messages.tell(ProcessError("of another one"))  # that is no reason of its own
    named = "another process of this run has ended"
    with pytest.raises(ProcessError, match=named) as caught, messages.naming():
        raise GONE
    assert "closed by peer" in str(caught.value)
    assert "and more of it" not in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes"), messages.naming():
        raise RuntimeError("shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("said", "kind"), [("Connection refused", ProcessError), ("no such backend", RuntimeError)]
)
def test_others_that_never_come_are_named(
    monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception]
) -> None:
    launcher = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(dist, "init_process_group", fail)
    with pytest.raises(kind, match=said), open_ranks(choose_device("cpu"), 5.0):
        raise AssertionError("there is nobody to work with")
