"""Keys and personal data are found whole, and nothing else is; by packages that may be missing."""

from __future__ import annotations

import importlib.util
import sys
import time

import pytest

from llama4sdk import GuardBlocked, InvalidRequest, Llama4
from llama4sdk.errors import BackendMissing
from llama4sdk.guards import Item, PatternGuard
from llama4sdk.guards.held import redacted
from llama4sdk.guards.ruling import Ruling
from llama4sdk.testing import ScriptedBackend


def absent(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package.replace("-", "_")) is None
    return pytest.mark.skipif(missing, reason=f"needs pip install {package}")


AWS = "AKIA" + "Q7RNS2LM5VXD3WYT"  # belongs to no account
WORDS = "abcdefghijklmnopqrstuvwxyz"
BLOCK = "-----BEGIN {0}PRIVATE KEY-----\nMIIEowIBAAKCAQEA7\nq83v\n-----END {0}PRIVATE KEY-----"
SECRETS = [
    (f"my key is {AWS} ok", "my key is [secret] ok"),
    (f"{AWS}, again {AWS}.", "[secret], again [secret]."),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [secret]"),
    (f"token ghp_{WORDS}ABCDEF1234 here", "token [secret] here"),
    (f"github_pat_11ABCDEFG0{WORDS}_{WORDS}", "[secret]"),
    (f"a\n{BLOCK.format('RSA ')}\nb", "a\n[secret]\nb"),
    (BLOCK.format("OPENSSH "), "[secret]"),
    (BLOCK.format("ENCRYPTED ") + "\nover", "[secret]\nover"),
    (BLOCK.format("")[:60], "[secret]"),  # its end is still to come
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c", "[secret]"),
    (f"xoxb-123456789012-1234567890123-{WORDS[:24]}", "[secret]"),
    ("https://user:hunter2secret@example.com/x", "https://user:[secret]@example.com/x"),
    ("password = 'correcthorse99!'", "password = '[secret]'"),
    ("  api_key: 9f8e7d6c5b4a39281706", "  api_key: [secret]"),
    (f"key = '{AWS}' # pragma: allowlist secret", "key = '[secret]' # pragma: allowlist secret"),
    ("x" * 3800 + f" {AWS} " + "y" * 5000, "x" * 3800 + " [secret] " + "y" * 5000),
]
NO_SECRETS = [
    "The sky is blue, and water is wet.",
    "Bring the secret recipe to 5th and Main at 10:30.",
    "The password: please choose a long one, of 8 characters. secret = none",
    "x = hashlib.sha256(data).hexdigest()\nif password is None: raise ValueError('no password')",
    "id: 123e4567-e89b-12d3-a456-426614174000",
    "commit da39a3ee5e6b4b0d3255bfef95601890afd80709 at 192.168.1.10",
]


async def replaced(guard: PatternGuard, text: str) -> str:
    item = Item("output", text)
    return redacted(text, 0, Ruling(item, (await guard.check(item),)).redactions)


@absent("detect-secrets")
async def test_secrets_are_replaced_whole_and_nothing_else_is() -> None:
    guard = PatternGuard(secrets=True, action="redact")
    assert await guard.selftest()
    for text, shown in SECRETS:
        assert await replaced(guard, text) == shown
    for text in NO_SECRETS:
        assert await replaced(guard, text) == text


@absent("detect-secrets")
async def test_a_guard_that_finds_no_secret_fails_its_selftest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama4sdk.guards.secret_finder._detectors", list)
    assert not await PatternGuard(secrets=True).selftest()


@absent("detect-secrets")
async def test_the_time_grows_with_the_text_alone() -> None:
    guard = PatternGuard(secrets=True)
    await guard.selftest()
    for pattern in ("'", "eyJ", "-----BEGIN RSA PRIVATE KEY-----\n"):
        times: list[float] = []
        for size in (4000, 16_000):
            begun = time.process_time()
            await guard.check(Item("output", pattern * (size // len(pattern))))
            times.append(time.process_time() - begun)
        assert times[1] < 12 * times[0] + 0.2, (pattern, times)


@absent("detect-secrets")
async def test_a_secret_in_an_answer_never_leaves() -> None:
    text = f"Here it is.\n{BLOCK.format('RSA ')}\nDone."
    async with Llama4(ScriptedBackend(text), guards=[PatternGuard(secrets=True)]) as llama:
        pieces: list[str] = []
        with pytest.raises(GuardBlocked):
            async with llama.stream("Go") as stream:
                async for piece in stream.text():
                    pieces.append(piece)
    assert "BEGIN" not in "".join(pieces)


PERSONAL = [
    ("My card is 4111 1111 1111 1111 thanks", "My card is [credit_card] thanks"),
    ("378282246310005", "[credit_card]"),
    ("5555-5555-5555-4444", "[credit_card]"),
    ("https://x.com/?cc=4111111111111111", "https://x.com/?cc=[credit_card]"),
    ("DE89 3704 0044 0532 0130 00", "[iban_code]"),
    ("FR1420041010050500013M02606", "[iban_code]"),
    ("write to jane.doe@example.com now", "write to [email_address] now"),
    ("<max+tag@mail.example.co.uk>", "<[email_address]>"),
    ("call +1 212-555-0187", "call [phone_number]"),
    ("+44 20 7946 0958", "[phone_number]"),
    ("4111 1111 1111 1112", "4111 1111 1111 1112"),  # its check digit is wrong
    ("order 12345678901234 of 2024-01-02", "order 12345678901234 of 2024-01-02"),
]


@absent("presidio-analyzer")
@pytest.mark.parametrize("language", ["en", "de"])
async def test_what_has_a_form_is_found_without_a_language_model(language: str) -> None:
    guard = PatternGuard(personal="patterns", language=language, action="redact")
    assert await guard.selftest()
    for text, shown in PERSONAL:
        assert await replaced(guard, text) == shown


@absent("presidio-analyzer")
def test_a_missing_language_model_is_not_downloaded() -> None:
    with pytest.raises(BackendMissing, match='personal="patterns"'):
        PatternGuard(personal=True, language="eo")
    with pytest.raises(InvalidRequest, match="code"):
        PatternGuard(personal="patterns", language="../en")


@pytest.mark.parametrize(("option", "package"), [("secrets", "detect_secrets"), ("personal", "presidio_analyzer")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, option: str, package: str) -> None:
    for name in (package, *(name for name in sys.modules if name.startswith(f"{package}."))):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendMissing, match=package.partition("_")[0]):
        PatternGuard(**{option: True})  # type: ignore[arg-type]
