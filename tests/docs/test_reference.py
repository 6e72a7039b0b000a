"""The reference holds every public name, under a path by which it can be imported."""

from __future__ import annotations

import inspect
import pkgutil
import re
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import docstring_parser
import pytest

import llama4_http
import llama4_local
import llama4_ray
import llama4sdk
from llama4_http.settings import Choices, Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("api*.md"))
SHOWN = re.findall(r"^::: ([\w.]+)$", "\n".join(page.read_text("utf-8") for page in PAGES), re.MULTILINE)
# The command is described by its --help.
PACKAGES = [
    f"llama4sdk.{each.name}"
    for each in pkgutil.iter_modules(llama4sdk.__path__)
    if each.ispkg and each.name != "command"
]
MODULES = ["llama4sdk", *PACKAGES, "llama4_local", "llama4_local.planning", "llama4_http", "llama4_ray"]


def named(path: str) -> object:
    """Return the object that a path names, imported as its page shows it."""
    module, _, name = path.rpartition(".")
    value = getattr(import_module(module), name)
    # `llama4_local.plan` is a module that can be called, once something has imported it as a module.
    return value.__call__ if isinstance(value, ModuleType) and callable(value) else value


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    shown = [named(path) for path in SHOWN]
    loaded = import_module(module)
    missing = [
        name
        for name in loaded.__all__
        if f"{module}.{name}" not in SHOWN and not any(getattr(loaded, name) is each for each in shown)
    ]
    assert not missing, f"add '::: {module}.…' for them to a page of docs/api*.md"


def test_no_name_is_there_twice_and_all_have_a_description() -> None:
    assert len(SHOWN) == len(set(SHOWN))
    for path in SHOWN:
        value = named(path)
        assert not inspect.isclass(value) or inspect.getdoc(value), path
        assert not inspect.isfunction(value) or inspect.getdoc(value), path


def test_the_reference_begins_with_the_options_of_the_backends() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]
    reference = next(group["Reference"] for group in site["nav"] if "Reference" in group)
    assert next(iter(reference[0].values())) == "api.md"
    shown = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)
    assert shown[0] == "llama4_local.LocalBackend"
    assert shown[1:3] == ["llama4_http.HttpBackend", "llama4_http.settings.Settings"]


@pytest.mark.parametrize(
    "described", [llama4_local.LocalBackend, llama4_http.HttpBackend, llama4_ray.RayBackend, Settings]
)
def test_every_option_is_described_with_its_type(described: type) -> None:
    options = [each for name, each in inspect.signature(described.__init__).parameters.items() if name != "self"]
    told = {each.arg_name for each in docstring_parser.parse(inspect.getdoc(described) or "").params}
    assert {option.name for option in options} == told
    assert all(option.annotation is not inspect.Parameter.empty for option in options)


def test_the_keywords_of_the_http_backend_are_the_described_settings() -> None:
    assert set(Choices.__annotations__) == set(inspect.signature(Settings).parameters)
