"""Languages in the offline model: detection, sentences, words, and its own phrases.

Sentences are found by `sentencex` (Wikimedia's rules for some 300 languages), stop words come from `stop-words`.
Nothing is downloaded: the same text always gives the same result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from sentencex import segment  # type: ignore[import-untyped]
from stop_words import StopWordError, get_stop_words  # type: ignore[import-untyped]

#: Languages with Latin script, which are distinguished by their stop words; the first wins a tie.
_LATIN = ("en", "de", "fr", "es", "it", "nl", "pt", "sv", "da", "pl", "tr", "id")
_CYRILLIC = ("ru", "uk", "bg")

HANGUL, KANA, HAN = "가-힣", "ぁ-ゖァ-ヺー", "一-鿿々"
_WORD = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*")
_CJK_RUN = re.compile(f"[{HAN}{KANA}]+")
_NAME_RUN = re.compile(f"[{HAN}]{{2,}}|[ァ-ヺー]{{2,}}")
_JAPANESE_QUOTE_GOES_ON = re.compile(f"[{KANA}{HAN}、]")
#: Where a full stop after a number makes it an ordinal: „am 5. Tag“.
_ORDINAL_DOTS = frozenset({"de", "da", "pl", "tr", "fi", "cs", "hu", "no"})
_ORDINAL = re.compile(r"\b\d{1,2}\.\Z")
#: Korean words with these endings are verbs or adverbs, and no tags.
_KOREAN_NO_NAME = re.compile(r"[다요며고면지게서히한된할될인로]$")
#: Particles and endings that are cut off Korean words, longest first, so that 계정은 and 계정을 are one word.
_KOREAN_ENDINGS = re.compile(
    r"(?:에서는|으로는|에게서|까지는|부터는|이라는|에서|에게|으로|까지|부터|처럼|보다|마다|이나|이라|라는|에는|와는|과는"
    r"|은|는|이|가|을|를|의|에|와|과|도|만|로|나)$"
)


@dataclass(frozen=True, slots=True)
class Phrases:
    """The offline model's own sentences. `{topic}`, `{count}` and `{keyword}` are filled in."""

    closing: str
    no_source: str
    no_prose: str
    not_translated: str
    outline: tuple[tuple[str, tuple[str, ...]], ...]
    keyword_line: str


_PHRASES = {
    "en": Phrases(
        closing="Written by the onelane offline model: the sentences are taken as they stand from the given sources "
        "({count}). No language model took part.",
        no_source="The offline model was given no source on **{topic}**. It invents nothing, so this is an outline of "
        "what a post could cover, and not an article.",
        no_prose="The sources ({count}) hold no prose that the offline model can use on **{topic}**. It invents "
        "nothing, so this is an outline of what a post could cover, and not an article.",
        not_translated="The offline model does not translate: the sentences stand in the language of the sources.",
        outline=(
            ("What it is", ("What {topic} means, in one paragraph.", "Whom it concerns, and when it matters.")),
            ("What to explain", ("The two or three points that a reader must know.", "An example from practice.")),
            ("What to check", ("Which facts need a source, and which source.", "What has changed lately.")),
        ),
        keyword_line="Where {keyword} comes in.",
    ),
    "de": Phrases(
        closing="Geschrieben vom offline model von onelane: Die Sätze stammen unverändert aus den angegebenen Quellen "
        "({count}). Kein Sprachmodell war beteiligt.",
        no_source="Das offline model hat keine Quelle zu **{topic}** erhalten. Es erfindet nichts; dies ist daher eine "
        "Gliederung für einen Beitrag und kein Artikel.",
        no_prose="Die Quellen ({count}) enthalten keinen Fließtext, den das offline model zu **{topic}** verwenden "
        "kann. Es erfindet nichts; dies ist daher eine Gliederung für einen Beitrag und kein Artikel.",
        not_translated="Das offline model übersetzt nicht: Die Sätze stehen in der Sprache der Quellen.",
        outline=(
            ("Worum es geht", ("Was {topic} bedeutet, in einem Absatz.", "Wen es betrifft und wann es zählt.")),
            ("Was zu erklären ist", ("Die zwei oder drei wichtigsten Punkte.", "Ein Beispiel aus der Praxis.")),
            ("Was zu prüfen ist", ("Welche Aussagen eine Quelle brauchen, und welche.", "Was sich geändert hat.")),
        ),
        keyword_line="Welche Rolle {keyword} spielt.",
    ),
    "ko": Phrases(
        closing="이 글은 onelane offline model이 썼습니다. 문장은 주어진 자료({count}개)에서 그대로 가져왔으며, "
        "언어 모델은 쓰이지 않았습니다.",
        no_source="offline model은 **{topic}**에 관한 자료를 받지 못했습니다. 내용을 지어내지 않으므로, 이것은 글이 "
        "아니라 글에서 다룰 수 있는 내용의 개요입니다.",
        no_prose="주어진 자료({count}개)에는 offline model이 **{topic}**에 쓸 수 있는 문장이 없습니다. 내용을 지어내지 "
        "않으므로, 이것은 글이 아니라 글에서 다룰 수 있는 내용의 개요입니다.",
        not_translated="offline model은 번역하지 않습니다. 문장은 자료의 언어 그대로입니다.",
        outline=(
            ("무엇인가", ("{topic}의 뜻을 한 문단으로 설명하기.", "누구에게, 언제 중요한지 밝히기.")),
            ("무엇을 설명할까", ("독자가 꼭 알아야 할 두세 가지.", "실제 사례 하나.")),
            ("무엇을 확인할까", ("출처가 필요한 사실과 그 출처.", "최근에 달라진 점.")),
        ),
        keyword_line="{keyword}의 역할.",
    ),
    "ja": Phrases(
        closing="この記事は onelane の offline model が書きました。文は与えられた資料（{count}件）からそのまま取った"
        "もので、言語モデルは使っていません。",
        no_source="offline model には **{topic}** についての資料がありません。内容を作り上げないため、これは記事では"
        "なく、記事で扱える内容の概要です。",
        no_prose="与えられた資料（{count}件）には、offline model が **{topic}** に使える文がありません。内容を作り上げ"
        "ないため、これは記事ではなく、記事で扱える内容の概要です。",
        not_translated="offline model は翻訳をしません。文は資料の言語のままです。",
        outline=(
            ("何のことか", ("{topic}の意味を一段落で説明する。", "だれに、いつ関係するのか。")),
            ("何を説明するか", ("読者が知るべき二、三の要点。", "実際の例を一つ。")),
            ("何を確かめるか", ("出典が必要な事実と、その出典。", "最近変わったこと。")),
        ),
        keyword_line="{keyword}の役割。",
    ),
}


def base_language(tag: str) -> str:
    """`pt-BR` → `pt`."""
    return tag.split("-", 1)[0].lower()


def phrases(language: str) -> Phrases:
    """The offline model's own words in that language, in English where it has none."""
    return _PHRASES.get(language, _PHRASES["en"])


def detect(text: str) -> str:
    """The text's language as two letters: by its script, and for Latin and Cyrillic by its stop words."""
    sample = text[:20_000]
    letters = sum(map(str.isalpha, sample)) or 1

    def share(characters: str) -> float:
        return len(re.findall(f"[{characters}]", sample)) / letters

    if share(HANGUL) > 0.2:
        return "ko"
    if share(KANA) > 0.1:
        return "ja"
    if share(HAN) > 0.2:
        return "zh"
    words = [word.lower() for word in _WORD.findall(sample)]
    candidates = _CYRILLIC if share("а-яё") > 0.3 else _LATIN
    hits = {language: sum(word in stop_words(language) for word in words) for language in candidates}
    return max(candidates, key=lambda language: hits[language])


@lru_cache(maxsize=64)
def stop_words(language: str) -> frozenset[str]:
    """The language's stop words; none where the list has none."""
    try:
        return frozenset(get_stop_words(language))
    except StopWordError:
        return frozenset()


def sentences(text: str, language: str) -> list[str]:
    """The sentences of one paragraph, in order, without the space between them."""
    found: list[str] = []
    for piece in segment(language, text):
        piece = piece.strip()
        if found and language == "ja" and found[-1][-1:] in "」』" and _JAPANESE_QUOTE_GOES_ON.match(piece):
            # A quotation inside a sentence ends with its own full stop: 「晴れです。」と言いました。
            found[-1] += piece
        elif found and language in _ORDINAL_DOTS and _ORDINAL.search(found[-1]):
            found[-1] += f" {piece}"
        elif piece:
            found.append(piece)
    return found


def terms(text: str, language: str) -> list[str]:
    """What two sentences are compared by: words that carry meaning, in lower case; pairs of signs for Han and Kana."""
    stop = stop_words(language)
    found: list[str] = []
    for word in _WORD.findall(text):
        runs = _CJK_RUN.findall(word)
        if runs:
            found += [run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1))]
            continue
        term = _korean_stem(word) if "가" <= word[-1] <= "힣" else word.lower()
        if len(term) > 1 and term not in stop and not term.isdigit():
            found.append(term)
    return found


def names(text: str, language: str) -> list[str]:
    """What could be a tag, as it is written: words that can name something, and pairs of such words side by side."""
    if language in ("ja", "zh"):
        return [run for run in _NAME_RUN.findall(text) if len(run) <= 12]
    found: list[str] = []
    before: tuple[str, int] | None = None
    for match in _WORD.finditer(text):
        name = _name(match[0], language)
        if name is None:
            before = None
            continue
        found.append(name)
        if before is not None and not text[before[1] : match.start()].strip():
            found.append(f"{before[0]} {name}")
        # A Korean particle ends what it is attached to.
        before = (name, match.end()) if name == match[0] else None
    return found


def _name(word: str, language: str) -> str | None:
    if "가" <= word[-1] <= "힣":
        stem = _korean_stem(word)
        return None if _KOREAN_NO_NAME.search(stem) or stem in stop_words("ko") or len(stem) < 2 else stem
    if len(word) < 3 or word[0].isdigit() or word.lower() in stop_words(language):
        return None
    # German nouns have a capital.
    return None if language == "de" and not word[0].isupper() else word


def word_count(text: str) -> int:
    """Words; two signs of Han or Kana count as one."""
    signs = sum(map(len, _CJK_RUN.findall(text)))
    return len(_WORD.findall(_CJK_RUN.sub(" ", text))) + (signs + 1) // 2


def _korean_stem(word: str) -> str:
    stem = _KOREAN_ENDINGS.sub("", word)
    return stem if len(stem) > 1 else word
