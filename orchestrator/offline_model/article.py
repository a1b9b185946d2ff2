"""Writes an article from the most important sentences of the sources, in their order.

No sentence is invented or rewritten, and the same request gives the same article. The last line of each article names
the offline model. Without a usable source, the article is an outline that says so in its first line.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import languages, ranking
from .prompt import Request
from .prose import Section, Sentence, escape, read_sections, read_sentences, to_markdown

MAX_TITLE, MAX_TAG, MAX_TAGS = 200, 40, 6
#: Sentences with a higher similarity count as duplicates.
_MAX_SIMILARITY = 0.6
_WORDS_PER_SECTION = 140
#: Sentences per section of a source without headings.
_CHUNK = 6
#: First words of sentences that need the previous sentence to be understood.
_DEPENDENT_OPENINGS = {
    "en": "this that these those it its they them their he she his her but however so then also therefore thus such "
    "otherwise instead and or nor yet both either neither here there hence moreover still",
    "de": "dies diese dieser dieses das er sie es aber jedoch doch also dann daher deshalb darum dabei damit dadurch "
    "auch sonst stattdessen und oder so solche hier dort dazu",
    "ko": "이 그 저 이는 그는 그것은 이것은 그러나 하지만 그래서 그리고 또한 따라서 그러므로 이때 그때",
    "ja": "この その あの これ それ あれ しかし だから そして また したがって ここ そこ",
}


@dataclass(frozen=True, slots=True)
class Article:
    """An article; `body` is Markdown without the title, `sentences` are plain text."""

    title: str
    body: str
    tags: tuple[str, ...]
    sentences: tuple[str, ...]
    language: str


@dataclass(slots=True)
class _Part:
    """A section of the article."""

    heading: str
    sentences: list[Sentence]


def write_article(request: Request) -> Article:
    """Write the article that the request asks for."""
    sections = [read_sections(source) for source in request.sources]
    text = "\n".join(paragraph for each in sections for section in each for paragraph, _ in section.paragraphs)
    spoken = languages.detect(text or request.topic)
    wanted = languages.base_language(request.language) if request.language else spoken
    usable = [
        read_sentences(each, number, languages.detect(_text_of(each)) if each else spoken)
        for number, each in enumerate(sections)
    ]
    title = (request.title_hint or _as_title(request.topic))[:MAX_TITLE]
    sentences = _bounded(_without_duplicates(usable))
    if not sentences:
        return _outline(request, title, wanted)
    parts = _choose(request, sentences, sections, spoken)
    words = languages.phrases(wanted)
    blocks = _blocks(parts, title, spoken)
    closing = words.closing.format(count=len(request.sources))
    if wanted != spoken:
        closing = f"{words.not_translated} {closing}"
    blocks.append(f"*{escape(closing)}*")
    chosen = tuple(_plain(each.text) for part in parts for each in part.sentences)
    return Article(title, "\n\n".join(blocks), _tags(request, chosen, spoken), chosen, spoken)


def _text_of(sections: Sequence[Section]) -> str:
    return "\n".join(paragraph for section in sections for paragraph, _ in section.paragraphs)


def _without_duplicates(usable: Iterable[list[Sentence]]) -> list[list[Sentence]]:
    """Each source's sentences without repeated ones."""
    seen: set[str] = set()
    kept: list[list[Sentence]] = []
    for sentences in usable:
        fresh: list[Sentence] = []
        for each in sentences:
            key = " ".join(each.text.casefold().split())
            if key not in seen:
                seen.add(key)
                fresh.append(each)
        kept.append(fresh)
    return kept


def _bounded(usable: Sequence[list[Sentence]]) -> list[Sentence]:
    """At most `MAX_SENTENCES`: of each source a proportional number, from its beginning."""
    total = sum(map(len, usable))
    if total <= ranking.MAX_SENTENCES:
        return [each for sentences in usable for each in sentences]
    return [
        each for sentences in usable for each in sentences[: max(1, ranking.MAX_SENTENCES * len(sentences) // total)]
    ][: ranking.MAX_SENTENCES]


def _choose(request: Request, sentences: list[Sentence], sections: list[list[Section]], language: str) -> list[_Part]:
    """The parts of the article: the best sections, each with its best sentences in their order."""
    vectors = ranking.vectors([languages.terms(each.text, language) for each in sentences])
    aim = languages.terms(" ".join([request.topic, *request.keywords]), language)
    bias = [_bias(each, vector, aim) for each, vector in zip(sentences, vectors, strict=True)]
    scores = ranking.text_rank(vectors, bias)
    groups = _groups(sentences, sections)
    count = max(1, min(8, round(request.words / _WORDS_PER_SECTION)), min(8, len({key[0] for key in groups})))
    best = _best_groups(groups, scores, count)
    parts: list[_Part] = []
    taken: list[ranking.Vector] = []
    budget = request.words
    for index, key in enumerate(best):
        members = groups[key]
        chosen = _best_sentences(members, sentences, vectors, scores, language, budget // (len(best) - index), taken)
        budget -= sum(languages.word_count(sentences[number].text) for number in chosen)
        if chosen:
            section = sections[key[0]][key[1]]
            # The first source's title is not repeated as a heading: the post has its own title.
            heading = section.heading if parts or section.level != 1 else ""
            parts.append(_Part(heading, [sentences[number] for number in chosen]))
    return parts


def _bias(sentence: Sentence, vector: ranking.Vector, aim: Sequence[str]) -> float:
    near = sum(vector.get(term, 0.0) for term in set(aim))
    bias = 1.0 + 4.0 * near
    if sentence.listed:
        bias *= 0.5
    return bias * (1.3 if sentence.position == 0 else 1.0)


def _groups(sentences: Sequence[Sentence], sections: list[list[Section]]) -> dict[tuple[int, int, int], list[int]]:
    """Indexes of sentences by source, section, and chunk of a long section."""
    by_section: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, each in enumerate(sentences):
        by_section[each.source, each.section].append(number)
    groups: dict[tuple[int, int, int], list[int]] = {}
    for (source, section), members in by_section.items():
        headed = bool(sections[source][section].heading)
        size = len(members) if headed or len(members) <= _CHUNK * 3 // 2 else _CHUNK
        for chunk, begin in enumerate(range(0, len(members), size)):
            groups[source, section, chunk] = members[begin : begin + size]
    return groups


def _best_groups(
    groups: dict[tuple[int, int, int], list[int]], scores: Sequence[float], count: int
) -> list[tuple[int, int, int]]:
    """The best groups in source order: one of each source first, then the best of the others."""

    def worth(key: tuple[int, int, int]) -> float:
        return sum(sorted((scores[number] for number in groups[key]), reverse=True)[:4])

    ranked = sorted(groups, key=lambda key: (-worth(key), key))
    firsts: dict[int, tuple[int, int, int]] = {}
    for key in ranked:
        firsts.setdefault(key[0], key)
    order = list(firsts.values()) + [key for key in ranked if key not in firsts.values()]
    return sorted(order[:count])


def _best_sentences(
    members: Sequence[int],
    sentences: Sequence[Sentence],
    vectors: Sequence[ranking.Vector],
    scores: Sequence[float],
    language: str,
    budget: int,
    taken: list[ranking.Vector],
) -> list[int]:
    """Indexes of a group's best sentences within a budget of words; at least one, if one is usable."""
    chosen: set[int] = set()
    spent = 0
    for number in sorted(members, key=lambda each: (-scores[each], each)):
        wanted = [number]
        if depends_on_previous(sentences[number].text, language):
            before = number - 1
            if before not in members or not _follows(sentences[before], sentences[number]):
                continue
            if before not in chosen:
                if depends_on_previous(sentences[before].text, language):
                    continue
                wanted = [before, number]
        if any(ranking.similarity(vectors[each], other) > _MAX_SIMILARITY for each in wanted for other in taken):
            continue
        cost = sum(languages.word_count(sentences[each].text) for each in wanted)
        if chosen and spent + cost > budget:
            continue
        spent += cost
        chosen.update(wanted)
        taken += [vectors[each] for each in wanted]
    return sorted(chosen)


def depends_on_previous(text: str, language: str) -> bool:
    """True if the sentence begins with a word that refers to the previous one."""
    opening = _DEPENDENT_OPENINGS.get(language, "").split()
    if language == "ja":
        return text.startswith(tuple(opening))
    first = text.split(maxsplit=1)[0].strip(",.;:'\"“„").lower()
    return first in opening


def _follows(before: Sentence, after: Sentence) -> bool:
    return (before.source, before.paragraph, before.position + 1) == (after.source, after.paragraph, after.position)


def _blocks(parts: Sequence[_Part], title: str, language: str) -> list[str]:
    """The article's Markdown blocks: headings and paragraphs."""
    blocks: list[str] = []
    used = {title.casefold()}
    for index, part in enumerate(parts):
        heading = _plain(part.heading)
        if not heading and index:
            names = _key_phrases([_plain(each.text) for each in part.sentences], language, 12)
            heading = next((name for name in names if name.casefold() not in used), "")
            heading = heading[:1].upper() + heading[1:]
            shown = escape(heading)
        else:
            shown = to_markdown(part.heading)
        if heading and heading.casefold() not in used:
            used.add(heading.casefold())
            blocks.append(f"## {shown}")
        blocks += _paragraphs(part.sentences, language)
    return blocks


def _paragraphs(sentences: Sequence[Sentence], language: str) -> list[str]:
    """Paragraphs of the sentences: those of one source paragraph stay together, a single one joins its neighbours."""
    groups: list[list[Sentence]] = []
    for each in sentences:
        same = groups and groups[-1][-1].paragraph == each.paragraph
        if groups and (same or len(groups[-1]) < 2) and len(groups[-1]) < 6:
            groups[-1].append(each)
        else:
            groups.append([each])
    joint = "" if language in ("ja", "zh") else " "
    return [joint.join(to_markdown(each.text) for each in group) for group in groups]


def _outline(request: Request, title: str, language: str) -> Article:
    words = languages.phrases(language)
    topic = escape(request.topic)
    say = words.no_prose if request.sources else words.no_source
    blocks = [say.format(topic=topic, count=len(request.sources))]
    for heading, points in words.outline:
        blocks.append(f"## {heading}")
        blocks.append("\n".join(f"- {point.format(topic=topic)}" for point in points))
    if request.keywords:
        blocks.append("\n".join(f"- {words.keyword_line.format(keyword=escape(each))}" for each in request.keywords))
    blocks.append("*onelane offline model*")
    said = tuple(point.format(topic=request.topic) for _, points in words.outline for point in points)
    return Article(title, "\n\n".join(blocks), _tags(request, (request.topic,), language), said, language)


def _tags(request: Request, sentences: Sequence[str], language: str) -> tuple[str, ...]:
    """The request's keywords, then the most frequent names in the sentences."""
    found: dict[str, str] = {}
    for each in [*request.keywords, *_key_phrases([request.topic, *sentences], language, MAX_TAGS)]:
        if len(each) <= MAX_TAG and len(found) < MAX_TAGS:
            found.setdefault(each.casefold(), each)
    return tuple(found.values())


def _key_phrases(sentences: Sequence[str], language: str, count: int) -> list[str]:
    """The most frequent names, without those that contain a chosen one or are part of it."""
    written: dict[str, str] = {}
    tally: Counter[str] = Counter()
    for sentence in sentences:
        for name in languages.names(sentence, language):
            if len(name) <= MAX_TAG:
                written.setdefault(name.casefold(), name)
                tally[name.casefold()] += 1
    # Two adjacent words count as a name if they occur together more than once.
    steady = [each for each in tally if " " not in each or tally[each] > 1]
    ranked = sorted(steady, key=lambda each: (-tally[each] * (1 + 0.7 * each.count(" ")), -len(each), each))
    chosen: list[str] = []
    for each in ranked:
        if not any(each in other or other in each for other in chosen):
            chosen.append(each)
        if len(chosen) == count:
            break
    return [written[each] for each in chosen]


def _plain(text: str) -> str:
    return text.translate({0xE000: None, 0xE001: None})


def _as_title(topic: str) -> str:
    return topic[:1].upper() + topic[1:]
