"""Extracts the text of HTML descriptions. Text without markup stays as it is, even with many `<` and `&`."""

import html
import re
from html.entities import html5


def html_to_text(text: str) -> str:
    """Return the words of `text` without tags, comments, scripts and styles, separated by single spaces.

    Only tags with an HTML name and well-formed attributes count; without any, `text` is returned unchanged. Block tags
    become spaces. Inline tags (`b`, `sub`) disappear, unless a word would run into a price. Takes linear time.
    """
    if "<" not in text or not _TAG.search(text):
        return text
    text = text.replace(_INLINE, "")
    parts, position = [], 0
    for tag in _TAG.finditer(text):
        if tag.start() < position:
            continue  # inside content that is dropped
        parts.append(text[position : tag.start()])
        name = (tag["name"] or "").lower()
        position = tag.end()
        if name in _DROPPED and not tag["end"]:
            close = re.compile(rf"</{name}\b[^<>]*>", re.IGNORECASE).search(text, position)
            position = close.end() if close else len(text)
        elif not name:
            close_at = text.find("-->", position)
            position = close_at + 3 if close_at >= 0 else len(text)
        parts.append(_INLINE if name in _INLINE_TAGS else " ")
    parts.append(text[position:])
    plain = _ENTITY.sub(_decode_entity, "".join(parts))
    plain = re.sub(rf"(?<=\w){_INLINE}+(?=[$€£¥₹₩₽₺])", " ", plain).replace(_INLINE, "")
    return " ".join(plain.split())


def _decode_entity(entity: re.Match[str]) -> str:
    return html.unescape(entity[0]) if entity[0][1] == "#" else html5.get(entity[0][1:], entity[0])


_INLINE = "\ufdd0"  # a Unicode noncharacter that marks the position of an inline tag
_DROPPED = frozenset({"script", "style", "template", "noscript", "iframe", "svg"})
_INLINE_NAMES = (
    "a|abbr|b|bdi|bdo|big|cite|code|del|dfn|em|font|i|ins|kbd|label|mark|q|s|samp|small|span|strike|strong|sub|sup|tt|"
    "u|var|wbr"
)
_BLOCK_NAMES = (
    "address|article|aside|audio|blockquote|body|br|button|caption|center|col|colgroup|dd|details|div|dl|dt|fieldset|"
    "figcaption|figure|footer|form|h[1-6]|head|header|hr|html|img|input|li|link|main|meta|nav|object|ol|option|p|"
    "picture|pre|section|select|source|summary|table|tbody|td|textarea|tfoot|th|thead|time|title|tr|ul|video"
)
_INLINE_TAGS = frozenset(_INLINE_NAMES.split("|"))
_NAMES = rf"(?:{_INLINE_NAMES}|{_BLOCK_NAMES}|{'|'.join(sorted(_DROPPED))})(?=[\s/>])"
_FLAGS = "allowfullscreen|async|autoplay|checked|controls|defer|disabled|hidden|loop|muted|noshade|nowrap|open|selected"
_VALUE = r"""\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'=<>`]+)"""
_ATTRIBUTE = rf"(?:\s+(?:[a-z_:@][\w:.-]*+{_VALUE}|(?:{_FLAGS})(?=[\s/>])))"
_TAG = re.compile(rf"<(?:(?P<end>/)?(?P<name>{_NAMES}){_ATTRIBUTE}*+\s*/?>|!--)", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
