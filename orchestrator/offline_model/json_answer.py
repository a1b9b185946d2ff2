"""Fills a requested JSON schema from an article.

Fields are filled by their names (`title`, `body`, `tags`, `summary` …) and else by their types; bounds of the schema
are kept. Both dialects are read: JSON Schema, and Gemini's own with types in capitals and `nullable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .article import Article
from .protocol import pick

#: Deeper or recursive schemas end in null.
MAX_DEPTH = 12
#: The most items of a list and characters of a text, whatever a schema demands.
MAX_ITEMS, MAX_TEXT = 50, 100_000

_TITLES = {"title", "headline", "subject", "name"}
_BODIES = {"body", "content", "text", "markdown", "article", "post"}
_SUMMARIES = {"summary", "excerpt", "description", "abstract", "teaser", "message"}
_TAGS = {"tags", "keywords", "labels", "topics", "categories", "hashtags"}
#: Keywords that decide a value before its type does.
_CHOICES = {"const", "enum", "anyOf", "any_of", "oneOf", "one_of", "allOf", "all_of"}

Schema = Mapping[str, Any]
DEFAULT_SCHEMA: Schema = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "body": {"type": "string"}, "tags": {"type": "array"}},
    "required": ["title", "body", "tags"],
}


def fill(schema: Schema | None, article: Article) -> Any:
    """A value for the schema, from the article; without a schema, an object of title, body and tags."""
    return _Filling(schema or DEFAULT_SCHEMA, article).value(schema or DEFAULT_SCHEMA, "", 0)


class _Filling:
    """One pass over a schema; fields with unknown names get the sentences in order."""

    def __init__(self, root: Schema, article: Article) -> None:
        self._root = root
        self._article = article
        self._sentences: Iterator[str] = iter(article.sentences)

    def value(self, schema: Any, name: str, depth: int) -> Any:
        schema = self._resolved(schema)
        if depth > MAX_DEPTH or schema is None:
            return None
        if "const" in schema:
            return schema["const"]
        choices = schema.get("enum")
        if isinstance(choices, list) and choices:
            return choices[0]
        for word in ("anyOf", "oneOf", "allOf"):
            options = pick(schema, word)
            if isinstance(options, list) and options:
                return self.value(_first_not_null(options), name, depth + 1)
        return self._of_type(_type_of(schema), schema, name, depth)

    def _of_type(self, kind: str, schema: Schema, name: str, depth: int) -> Any:
        if kind == "object":
            properties = schema.get("properties")
            if not isinstance(properties, dict):
                return {}
            return {each: self.value(inner, each, depth + 1) for each, inner in properties.items()}
        if kind == "array":
            return self._items(schema, name, depth)
        if kind == "string":
            return _fit(self._text(name), schema)
        if kind in ("integer", "number"):
            least = pick(schema, "minimum")
            return least if isinstance(least, int | float) else 0
        return False if kind == "boolean" else None

    def _items(self, schema: Schema, name: str, depth: int) -> list[Any]:
        least = _bound(pick(schema, "minItems"), 0, MAX_ITEMS)
        most = _bound(pick(schema, "maxItems"), MAX_ITEMS, MAX_ITEMS)
        inner = schema.get("items") or {"type": "string"}
        tag = self._resolved(inner) or {}
        if name.lower() in _TAGS and _type_of(tag) == "string" and not tag.keys() & _CHOICES:
            found: list[Any] = [_fit(each, tag) for each in self._article.tags]
        else:
            found = [self.value(inner, "", depth + 1) for _ in range(max(least, min(3, most)))]
        while len(found) < least:
            found.append(self.value(inner, "", depth + 1))
        return found[:most]

    def _text(self, name: str) -> str:
        word = name.lower()
        article = self._article
        if word in _TITLES:
            return article.title
        if word in _BODIES:
            return article.body
        if word in _SUMMARIES:
            return article.sentences[0] if article.sentences else article.title
        if word in ("language", "lang", "locale"):
            return article.language
        return next(self._sentences, article.title)

    def _resolved(self, schema: Any) -> Schema | None:
        """The schema that a `$ref` into this document names; None if there is none."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict):
                return None
            reference = pick(schema, "$ref") or schema.get("ref")
            if not isinstance(reference, str):
                return schema
            target: Any = self._root
            for part in reference.removeprefix("#").strip("/").split("/"):
                if part:
                    target = target.get(part) if isinstance(target, dict) else None
            schema = target
        return None


def _type_of(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if str(each).lower() != "null"), "null")
    if isinstance(kind, str):
        return kind.lower()
    if isinstance(schema.get("properties"), dict):
        return "object"
    return "array" if "items" in schema else "string"


def _first_not_null(options: list[Any]) -> Any:
    return next(
        (each for each in options if not (isinstance(each, dict) and str(each.get("type")).lower() == "null")),
        options[0],
    )


def _bound(value: Any, default: int, most: int) -> int:
    return min(value, most) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _fit(text: str, schema: Schema) -> str:
    """The text within the schema's length limits, cut at a space if possible."""
    most = _bound(pick(schema, "maxLength"), MAX_TEXT, MAX_TEXT)
    least = _bound(pick(schema, "minLength"), 0, most)
    if len(text) > most:
        cut = text[:most]
        space = cut.rfind(" ")
        text = cut[:space] if space > max(least, most // 2) else cut
    return text.ljust(least, "…")
