"""Sessions are copied part by part between steps, from pages that stay whatever happens meanwhile."""

from __future__ import annotations

import pytest
import torch

from llama4_local.cache import session_store
from llama4_local.cache.session_store import SessionCopy
from llama4_local.engine.request import Prefix
from local.small_backends import SmallEngine, chatting, check_at_rest
from local.small_checkpoints import CHUNK, prompt


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_store, "_PART_BYTES", 1)


def session_of(small: SmallEngine, seed: int) -> list[int]:
    """Compute a prompt whose pages are pinned under "session", and return its tokens."""
    token_ids = prompt(small.config, 3 * CHUNK, seed=seed)
    reader = small.submit(token_ids, in_session=True, answers=False)
    small.run()
    small.engine.session_store.move(reader.engine_request, "session")
    return token_ids


def completed(copy: SessionCopy) -> int:
    """Copy all parts, and return how many there were."""
    parts = 1
    while copy.advance():
        parts += 1
    return parts


def test_a_session_that_goes_on_while_it_is_saved_is_saved_as_it_was() -> None:
    small = SmallEngine(chatting(stop_ids=()))
    session_of(small, seed=1)
    store = small.engine.session_store
    whole = store.read("session", "once")
    assert completed(whole) == len(small.config.text.global_layers) * 3 * CHUNK // small.shape.page_size
    store.unpin("once")
    copy = store.read("session", "reader")
    copy.advance()
    session_of(small, seed=2)  # its pages take the place of those that are read
    for seed in range(3, 8):
        small.answer(prompt(small.config, 6 * CHUNK, seed=seed))
    completed(copy)
    store.unpin("reader")
    store.unpin("session")
    assert torch.equal(copy.state.keys, whole.state.keys)
    assert torch.equal(copy.state.values, whole.state.values)
    assert float(whole.state.keys.abs().max()) > 0
    check_at_rest(small)


def test_a_session_written_back_between_steps_saves_its_computation() -> None:
    small, other = (SmallEngine(chatting(stop_ids=())) for _ in range(2))
    token_ids = session_of(small, seed=1)
    copy = small.engine.session_store.read("session", "reader")
    completed(copy)
    back = other.engine.restore(Prefix(tuple(token_ids), (), 0, "salt", "session"), copy.state)
    stream = other.submit(prompt(other.config, 5, seed=9))
    while back.advance():
        other.engine.step()
    other.run()
    assert stream.done
    longer = [*token_ids, 5, 6]
    reader = other.answer(longer, salt="salt")
    assert reader.done is not None
    assert reader.done.usage is not None
    assert reader.done.usage.cached_tokens == 3 * CHUNK
    assert reader.text == small.answer(longer).text
