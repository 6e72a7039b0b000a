"""Data URLs as browsers take them: the content decides, and layout does not matter."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from image_files import encoded
from llama4sdk.image_limits import ImageLimits
from llama4sdk.images import load
from llama4sdk.images.data_url import is_data_url, read_data_url
from llama4sdk.parts import part_of

DATA = encoded(Image.new("RGB", (6, 4), (255, 0, 0)))
BASE64 = base64.b64encode(DATA).decode()
LINES = "\r\n".join(BASE64[place : place + 20] for place in range(0, len(BASE64), 20))


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f"data:image/jpeg;base64,{BASE64}",
        f"data:image/jpg;base64,{BASE64}",
        f"data:image/svg+xml;base64,{BASE64}",
        f"data:text/html;base64,{BASE64}",
        f"data:application/octet-stream;base64,{BASE64}",
        f"data:;base64,{BASE64}",
        f"data:image/png;charset=utf-8;base64,{BASE64}",
        f"data:image/png;name=a.png;base64,{BASE64}",
        f"data:image/png; base64,{BASE64}",
        f"data:image/png;base64 ,{BASE64}",
        f"data:image/png;BASE64,{BASE64}",
        f"DATA:image/png;base64,{BASE64}",
        f"  data:image/png;base64,{BASE64}",
        f"\n\tdata:image/png;base64,{BASE64}\n",
        f"data:image/png;base64, {BASE64}",
        f"data:image/png;base64,\n{BASE64}",
        f"data:image/png;base64,{LINES}",
        f"data:image/png;base64,{LINES}\r\n",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        f"data:image/png;base64,{quote(BASE64, safe='')}",
        f"data:image/png;base64,{quote(LINES)}",
        f"data:image/png;base64,{BASE64}#fragment",
        f"data:image/png,{quote(DATA)}",
        f"data:,{quote(DATA)}",
    ],
)
def test_a_data_url_that_browsers_show_is_read(url: str) -> None:
    assert is_data_url(url)
    assert read_data_url(url, ImageLimits()) == DATA
    assert load(url).size == (6, 4)
    assert load(part_of({"type": "image_url", "image_url": {"url": url}})).size == (6, 4)  # pyright: ignore[reportArgumentType]


@given(
    data=st.binary(min_size=1, max_size=80),
    blanks=st.lists(st.tuples(st.integers(0, 120), st.sampled_from(" \t\r\n\f"))),
)
def test_every_layout_of_base64_gives_the_bytes_back(data: bytes, blanks: list[tuple[int, str]]) -> None:
    text = base64.b64encode(data).decode()
    for place, blank in blanks:
        text = text[:place] + blank + text[place:]
    assert read_data_url(f"data:;base64,{text}", ImageLimits()) == data
    assert read_data_url(f"data:;base64,{text.replace('=', '')}", ImageLimits()) == data


def test_a_file_whose_name_begins_like_one_is_no_data_url() -> None:
    assert not is_data_url("data.png")
    assert not is_data_url("my data:x.png")
