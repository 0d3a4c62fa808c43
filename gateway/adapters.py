"""The table that gives a request its adapters: those of its industry and style, and those that it names."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from families import FAMILIES, FamilySpec, InvalidRequest
from families.adapters import AdapterEntry, AdapterIndex, Lora
from families.wording import INDUSTRIES, STYLES
from gateway.problems import shown
from gateway.prompts import compose
from gateway.schemas import Choice, ChoiceAdapter, GenerateRequest, LoraChoice


class AdapterTable:
    """What the store in `folder` has at the moment: it may change while requests are answered.

    An adapter belongs to the industry or the style that it was added with, at its own scale.
    """

    def __init__(self, folder: Path) -> None:
        self._index = AdapterIndex(folder)

    def industries(self) -> list[Choice]:
        """Those that prompts know, and then those that only adapters have."""
        return self._choices("industry", INDUSTRIES)

    def styles(self) -> list[Choice]:
        return self._choices("style", STYLES)

    def check(self, kind: str, name: str | None) -> None:
        """InvalidRequest unless `name` is None or one of the choices of `kind`: "industry" or "style"."""
        choices = self.industries() if kind == "industry" else self.styles()
        names = [choice.name for choice in choices]
        if name is not None and name not in names:
            raise InvalidRequest(f"'{shown(name)}' is unknown; choices: {', '.join(names)}")

    def selected(self, family: FamilySpec, fields: GenerateRequest) -> tuple[Lora, ...]:
        """The adapters of a request: its industry's, its style's, then others that it names.

        A name of `fields.loras` that comes with the industry or the style keeps its place and takes the
        request's scale. InvalidRequest if the store has no adapter of that name for `family`.
        """
        entries = self._index.entries(family.name)
        of_words = [name for name, entry in entries.items() if belongs(entry, fields)]
        scales = {name: entries[name].scale for name in of_words}
        for asked in fields.loras or ():
            scales[asked.name] = scale_of(asked, entries.get(asked.name), list(entries), family)
        return tuple(Lora(name, scale) for name, scale in scales.items())

    def _choices(self, kind: str, known: Sequence[str]) -> list[Choice]:
        named = [name for _, _, entry in self._entries() if (name := getattr(entry, kind))]
        return [self._choice(kind, name) for name in dict.fromkeys([*known, *sorted(named)])]

    def _choice(self, kind: str, name: str) -> Choice:
        adapters = [
            ChoiceAdapter(model=family.name, name=adapter, scale=entry.scale)
            for family, adapter, entry in self._entries()
            if getattr(entry, kind) == name
        ]
        words = (None, name) if kind == "industry" else (name, None)
        return Choice(name=name, prompt_template=compose("{prompt}", *words), adapters=adapters)

    def _entries(self) -> Iterator[tuple[FamilySpec, str, AdapterEntry]]:
        for family in FAMILIES.values():
            for name, entry in self._index.entries(family.name).items():
                yield family, name, entry


def belongs(entry: AdapterEntry, fields: GenerateRequest) -> bool:
    """Whether the request's industry or style brings this adapter."""
    words = {("industry", entry.industry), ("style", entry.style)}
    return bool(words & {(kind, name) for kind in ("industry", "style") if (name := getattr(fields, kind))})


def scale_of(asked: LoraChoice, entry: AdapterEntry | None, names: list[str], family: FamilySpec) -> float:
    """The scale that a request gives, or the adapter's own."""
    if entry is None:
        choices = ", ".join(names) or f"none, {family.name} has no adapters"
        raise InvalidRequest(f"{family.name} has no adapter '{shown(asked.name)}'; choices: {choices}")
    return entry.scale if asked.scale is None else asked.scale
