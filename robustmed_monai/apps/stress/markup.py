"""HTML as a tree, so that text can never become markup, and pictures as data."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.files import read_file

Content = Element | str | None
_MAX_PICTURE = 1 << 23  # bytes
_PNG = b"\x89PNG\r\n\x1a\n"
# Signs that no HTML document may hold, and halves of signs.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def tag(name: str, /, *content: Content | Iterable[Content], **attributes: str | float | None) -> Element:
    """An element with its content.

    Args:
        name: such as "p".
        content: elements, texts, or several of them; None is left out.
        attributes: ``class_`` stands for class, ``_`` within a name for ``-``; None is left out.

    Example:
        >>> to_html(tag("p", "a < b", tag("b", "c"), class_="x"))
        '<p class="x">a &lt; b<b>c</b></p>'
    """
    given = {
        key.rstrip("_").replace("_", "-"): plain(f"{value:g}" if isinstance(value, float) else str(value))
        for key, value in attributes.items()
        if value is not None
    }
    element = Element(name, given)
    for part in content:
        several = [part] if part is None or isinstance(part, str | Element) else part
        for child in several:
            _append(element, child)
    return element


def to_html(element: Element) -> str:
    """The element as HTML."""
    return tostring(element, encoding="unicode", method="html")


def plain(text: str) -> str:
    r"""Text without the signs that a document may not hold.

    >>> plain("a\x00b") == "a\ufffdb"
    True
    """
    return _FORBIDDEN.sub("\ufffd", text)


def picture_data(folder: Path, name: str) -> str:
    """A picture as an address that holds it.

    Args:
        folder: of the stress result.
        name: path of a PNG within it.

    Raises:
        DataError: when it lies elsewhere, cannot be read or is no PNG.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{name}: lies outside of {folder}; run `robustmed stress` again.")
    try:
        content = read_file(path, _MAX_PICTURE)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run `robustmed stress` again.") from error
    if not content.startswith(_PNG):
        raise DataError(f"{path}: is no PNG picture; run `robustmed stress` again.")
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _append(element: Element, child: Content) -> None:
    if child is None:
        return
    if isinstance(child, Element):
        element.append(child)
    elif len(element):
        element[-1].tail = (element[-1].tail or "") + plain(child)
    else:
        element.text = (element.text or "") + plain(child)
