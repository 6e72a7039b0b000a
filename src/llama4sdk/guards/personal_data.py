"""Personal data in a text, by the recognizers of `presidio-analyzer`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from llama4sdk.errors import BackendMissing, InvalidRequest
from llama4sdk.guards.matches import Remembered, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama4sdk.guards.matches import Finder, Match

Personal: TypeAlias = Literal["patterns"] | bool

CANARY: Final = "Write to jane.doe@example.com."
"""A text with an address in it, which the self-test expects to be found."""
_LEAST_SCORE: Final = 0.4  # what any number of some length could be scores less
_PIECE: Final = 2048  # characters that are analysed at once
_SHARED: Final = 256  # characters that neighbouring pieces share
_IMPERSONAL: Final = {"URL", "DATE_TIME"}
_SIZES: Final = ("trf", "lg", "md", "sm")  # of spaCy's pipelines, the best first


def personal_finder(language: str, *, by_patterns: bool) -> Finder:
    """Return a function that yields the personal data of a text.

    Args:
        language: The text's language.
        by_patterns: Whether only what has a form is found, such as cards, accounts, addresses and numbers; names and
            places need a language model of spaCy's.

    Raises:
        BackendMissing: The package or a language model is not installed; none is downloaded.
        InvalidRequest: For a language that is no name of one.
    """
    if not language.isalpha():
        raise InvalidRequest(f"language is a code such as en; got {language[:80]!r}.")
    model = "" if by_patterns else _installed_model(language)
    lock = threading.Lock()
    made: list[Any] = []

    def data_in(piece: str) -> Iterator[Match]:
        with lock:
            made.extend([] if made else [_analyzer(language, model)])
        for result in cast("list[Any]", made[0].analyze(text=piece, language=language, score_threshold=_LEAST_SCORE)):
            if result.entity_type not in _IMPERSONAL:
                yield result.start, result.end, str(result.entity_type).lower()

    remembered = Remembered(data_in)

    def find(text: str) -> Iterator[Match]:
        for offset, piece in pieces(text, size=_PIECE, shared=_SHARED):
            yield from ((offset + start, offset + end, rule) for start, end, rule in remembered(piece))

    _packages()
    return find


def _installed_model(language: str) -> str:
    _, _, spacy = _packages()
    installed = [str(name) for name in cast("list[str]", spacy.util.get_installed_models())]
    fitting = [name for size in _SIZES for name in installed if name.startswith(f"{language}_") and name.endswith(size)]
    if not fitting:
        raise BackendMissing(
            f"Names and places need a language model for {language!r}. Install one, such as with: python -m spacy "
            'download en_core_web_lg; or find what has a form alone, with personal="patterns".'
        )
    return fitting[0]


def _analyzer(language: str, model: str) -> Any:
    """Return an engine with its recognizers for a language, and the model's where one is named."""
    presidio, nlp, _ = _packages()
    models = [{"lang_code": language, "model_name": model or "none"}]
    kind: Any = nlp.SpacyNlpEngine if model else _without_model(nlp)
    engine = kind(models=models)
    engine.load()
    analyzer = presidio.AnalyzerEngine(nlp_engine=engine, supported_languages=[language])
    if "CREDIT_CARD" not in analyzer.get_supported_entities(language):  # whose form is that of every language
        from presidio_analyzer.predefined_recognizers import CreditCardRecognizer  # pyright: ignore[reportMissingImports]

        analyzer.registry.add_recognizer(CreditCardRecognizer(supported_language=language))
    return analyzer


def _without_model(nlp: Any) -> Any:
    if not hasattr(nlp, "NoOpNlpEngine"):
        raise BackendMissing('personal="patterns" needs a newer presidio-analyzer: pip install -U presidio-analyzer')
    return nlp.NoOpNlpEngine


def _packages() -> tuple[Any, Any, Any]:
    try:
        import presidio_analyzer  # pyright: ignore[reportMissingImports]
        import spacy  # pyright: ignore[reportMissingImports]
        from presidio_analyzer import nlp_engine  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BackendMissing("Personal data needs presidio. Install it with: pip install presidio-analyzer") from error
    return presidio_analyzer, nlp_engine, spacy
