"""The words of every report: one table with a column a language, so that no key can be in one and not in another.

A message is `"key": (English, Chinese)`, in the file of its subject; what stands in braces is the same in both. Words
that a record holds (a reason, a source, a phase) are English in the record and are put into the reader's language when
it is drawn: `recorded.py` has them.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from flopwatch.report.messages.charts import CHARTS
from flopwatch.report.messages.columns import COLUMNS
from flopwatch.report.messages.common import COMMON
from flopwatch.report.messages.page import PAGE
from flopwatch.report.messages.speed import SPEED
from flopwatch.report.messages.whatif import WHATIF
from flopwatch.report.messages.work import WORK

Language = Literal["en", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
TABLE: Final[dict[str, tuple[str, str]]] = {**COMMON, **WORK, **SPEED, **PAGE, **CHARTS, **COLUMNS, **WHATIF}
"""Every message by its key: one text for each of LANGUAGES, in their order."""

_TAGS: Final[dict[Language, str]] = {"en": "en", "zh": "zh-Hans"}


class Words:
    """The messages of one language; call it with a key and the values that its template names."""

    def __init__(self, lang: Language = "en") -> None:
        self.lang: Final = lang
        self.tag: Final = _TAGS[lang]
        self._column = LANGUAGES.index(lang)

    def __call__(self, key: str, /, **values: object) -> str:
        """The message of that key with its values filled in."""
        return TABLE[key][self._column].format(**values)

    def template(self, key: str) -> str:
        """The message of that key as it stands, for a page that fills it in itself."""
        return TABLE[key][self._column]

    def said(self, text: str | None) -> str:
        """What a record says, in this language: names, and what nobody has translated, as they stand; n/a for None."""
        if text is None:
            return self("na")
        if self.lang == "en":
            return text
        from flopwatch.report.messages.recorded import in_chinese  # readers of English do without

        return in_chinese(text)
