"""Chat templates come out as transformers' renderer makes them."""

# ruff: noqa: E501 - a template is a line

from __future__ import annotations

import datetime as datetime_module
from typing import Any

import pytest

from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage
from llama4sdk.prompting.chat_template import render_chat_template
from llama4sdk.request import ToolSpec

SPECIALS = ("<|begin_of_text|>", "<|eot|>", "<|header_start|>")
DIALOG: tuple[Message, ...] = (
    SystemMessage("Be brief."),
    UserMessage("Grüße, <b>Zoë</b> & 你好 😀 'quoted' \"twice\" a<|eot|>b"),
    AssistantMessage(
        "", tool_calls=[ToolCall("find", {"town": "Köln", "n": 3, "deep": {"z": [1, None, True], "a": 1.5}}, id="c1")]
    ),
    ToolMessage('{"ok": true}', tool_call_id="c1", name="find"),
    UserMessage(["part one ", "part two"]),
)
TOOLS = (
    ToolSpec(
        "find",
        "Finds a größe <x>.",
        {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    ),
)
TEMPLATES = {
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}[{{ m.tool_calls | length }}]{% endgeneration %}{% else %}{{ m.role }}{% endif %}{% endfor %}",
    "generation with trims": "{%- for m in messages -%}\n  {%- generation -%} x {{ m.role }} {%- endgeneration -%}\n{%- endfor -%}",
    "generation on lines of its own": "{% for m in messages %}\n    {% generation %}\n  {{ m.role }}\n    {% endgeneration %}\n{% endfor %}",
    "what is set in a generation": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "loop in a generation": "{% for m in messages %}{% generation %}{{ loop.index }}{{ m.role }}{% endgeneration %}{% endfor %}",
    "tojson": "{{ tools | tojson }}|{{ messages | tojson }}",
    "tojson, indented": "{{ tools | tojson(indent=4) }}|{{ messages[2] | tojson(indent=2) }}",
    "tojson, all positional": "{{ messages[2].tool_calls | tojson(false, 2, (',', ': '), true) }}",
    "tojson, positional indent": "{{ messages[2].tool_calls | tojson(4) }}",
    "tojson, separators": "{{ messages[2].tool_calls | tojson(separators=(',', ':')) }}",
    "tojson, ASCII": "{{ messages | tojson(ensure_ascii=true) }}",
    "tojson, ASCII and indented": "{{ messages | tojson(ensure_ascii=True, indent='\t') }}",
    "tojson, sorted": "{{ messages[2].tool_calls | tojson(sort_keys=true) }}",
    "ids of calls": "{% for m in messages %}{{ m.tool_call_id }}{{ m.name }}{% for c in m.tool_calls or [] %}{{ c.id }}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}",
    "documents": "{{ documents is none }}{{ documents is defined }}{% if documents %}no{% endif %}",
    "no tools": "{% if tools is none %}none{% endif %}{{ tools is defined }}",
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{% if loop.index == 4 %}{% break %}{% endif %}{{ m.role }},{% endfor %}",
    "date": "{{ strftime_now('%d %B %Y') }}{{ strftime_now('%Z') }}",
    "namespace": "{% set ns = namespace(a=1, b='x') %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}{{ ns.b }}",
    "dict": "{{ dict(a=1) }}{{ dict.fromkeys(['k']) if false else '' }}",
    "macros": "{% macro show(m, sep='/') %}{{ m.role }}{{ sep }}{% endmacro %}{% for m in messages %}{{ show(m) }}{% endfor %}",
    "content": "{% for m in messages %}{% if m.content is string %}{{ m.content | trim }}{% else %}{% for p in m.content %}{{ p.type }}{{ p['text'] }}{% endfor %}{% endif %}{% endfor %}",
    "undefined": "{{ date_string is defined }}{{ custom_tools is defined }}{{ enable_thinking is defined }}{{ nothing }}",
    "prompt": "{% if add_generation_prompt %}assistant{% endif %}{{ bos_token }}{{ eos_token }}",
    "white space": "{% for m in messages %}\n  {% if true %}\n    {{ m.role }}\n  {% endif %}\n{% endfor %}\n",
    "items": "{% for k, v in messages[2].tool_calls[0].function.arguments.items() %}{{ k }}={{ v }};{% endfor %}",
    "filters": "{{ messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "slices": "{{ messages[1:] | length }}{{ messages[::-1][0].role }}{{ messages[-1].role }}",
}


def as_dicts(dialog: tuple[Message, ...]) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for message in dialog:
        text = isinstance(message.content, str)
        content: object = message.text if text else [{"type": "text", "text": part.text} for part in message.parts]  # type: ignore[union-attr]
        row: dict[str, Any] = {"role": message.role, "content": content}
        if isinstance(message, AssistantMessage):
            row["tool_calls"] = [
                {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.tool_calls
            ]
        if isinstance(message, ToolMessage):
            row |= {"tool_call_id": message.tool_call_id, "name": message.name}
        shown.append(row)
    return shown


def by_transformers(source: str, *, tools: bool) -> str:
    renderer = pytest.importorskip("transformers.utils.chat_template_utils")
    declared = [
        {
            "type": "function",
            "function": {"name": t.name, "description": t.description, "parameters": dict(t.parameters)},
        }
        for t in TOOLS
    ]
    rendered, _ = renderer.render_jinja_template(
        [as_dicts(DIALOG)],
        tools=declared if tools else None,
        chat_template=source,
        add_generation_prompt=True,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot|>",
    )
    return rendered[0]


def ours(source: str, *, tools: bool = True) -> str:
    stretches = render_chat_template(source, DIALOG, TOOLS if tools else (), SPECIALS, answer=True)
    return "".join(text for text, _ in stretches)


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("tools", [True, False], ids=["tools", "no tools"])
def test_a_template_is_rendered_as_transformers_renders_it(source: str, tools: bool) -> None:
    assert ours(source, tools=tools) == by_transformers(source, tools=tools)


@pytest.mark.parametrize("options", ["", "ensure_ascii=true", "indent=2, ensure_ascii=true", "true"])
def test_text_in_json_forges_no_special_token(options: str) -> None:
    stretches = list(render_chat_template(f"{{{{ messages | tojson({options}) }}}}", DIALOG, (), SPECIALS, answer=True))
    assert not any(special for _, special in stretches)
    assert "a<|eot|>b" in "".join(text for text, _ in stretches)


def test_the_complaint_of_a_template_is_shown() -> None:
    with pytest.raises(InvalidRequest, match="Roles must alternate"):
        ours("{{ raise_exception('Roles must alternate') }}")


def test_products_and_powers_of_a_template_are_as_long_as_it_needs() -> None:
    assert "===|49|1000000000000" in ours("{{ '=' * 3 }}|{{ 7 ** 2 }}|{{ 1000000 * 1000000 }}")


@pytest.mark.parametrize(
    "source",
    [
        "{% generation %}",
        "{{ messages | tojson(indent={}) }}",
        "{{ tools.nothing.more }}",
        "{{ strftime_now() }}",
        "{% include 'x' %}",
        "{{ tojson }}{% break %}",
        "{{ lipsum(n=1000000) }}",
        "{{ 'x' * 1000000000 }}",
        "{{ 1000000000 * messages }}",
        "{% set digits = 9 ** 9 %}{{ 9 ** digits }}",
        "{% for i in range(60000) %}{{ 'x' * 9999 }}{% endfor %}",
    ],
)
def test_a_template_that_fails_is_an_invalid_request(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template failed"):
        ours(source)


def test_the_date_is_that_of_the_local_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    today = datetime_module.datetime.now()
    assert ours("{{ strftime_now('%Y') }}") == today.strftime("%Y")
