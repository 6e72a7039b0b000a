"""Makes the parts of the documentation that follow from other files: `python -m docs_parts`."""

from __future__ import annotations

from docs_parts.parts import ROOT, parts


def main() -> None:
    """Write every part that has changed."""
    for path, text in parts().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
