"""The table that gives a request its adapters: those of its industry and style, and those that it names."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from families import FAMILIES, FamilySpec, InvalidRequest
from families.adapters import AdapterEntry, AdapterIndex
from families.loras import Lora, check_fit, scale_of
from families.wording import INDUSTRIES, STYLES
from gateway.limits import Limits
from gateway.problems import ErrorItem, Problem, shown
from gateway.prompts import compose
from gateway.schemas import Choice, ChoiceAdapter, GenerateRequest, Kind, ListedLora, NoAdapter
from gateway.validation import invalid

KINDS: tuple[Kind, ...] = get_args(Kind)
Listed = Sequence[tuple[FamilySpec, str, AdapterEntry]]


class AdapterTable:
    """What the store in `folder` has at the moment: it may change while requests are answered.

    An adapter belongs to the industry or the style that it was added with, at its own scale.
    """

    def __init__(self, folder: Path) -> None:
        self._index = AdapterIndex(folder)

    def loras(self) -> list[ListedLora]:
        """Everything that a request may name."""
        return [
            ListedLora(model=family.name, name=name, **{fact: getattr(entry, fact) for fact in FACTS})
            for family, name, entry in self._listed()
        ]

    def industries(self) -> list[Choice]:
        """Those that prompts know, and then those that only adapters have."""
        return self._choices("industry", INDUSTRIES)

    def styles(self) -> list[Choice]:
        return self._choices("style", STYLES)

    def check(self, kind: str, name: str | None) -> None:
        """InvalidRequest unless `name` is None or one of the choices of `kind`: "industry" or "style"."""
        if name is None:
            return
        choices = self.industries() if kind == "industry" else self.styles()
        names = [choice.name for choice in choices]
        if name not in names:
            raise InvalidRequest(f"'{shown(name)}' is unknown; choices: {', '.join(names)}")

    def selected(self, family: FamilySpec, fields: GenerateRequest, limits: Limits) -> tuple[Lora, ...]:
        """The adapters of a request: its industry's, its style's, then others that it names.

        A name of `fields.loras` that comes with the industry or the style keeps its place and takes the
        request's scale. Industry and style bring what fits the served checkpoint; a Problem says why one
        that is named does not, or why all together do not.
        """
        if not (fields.industry or fields.style or fields.loras):
            return ()
        entries = self._index.entries(family.name)
        scales: dict[str, float | None] = {
            name: entry.scale for name, entry in entries.items() if brought(entry, fields, limits)
        }
        scales |= {asked.name: asked.scale for asked in fields.loras or ()}
        loras = [Lora(name, scale) for name, scale in scales.items()]
        try:
            found = [self._index.entry(family.name, lora.name) for lora in loras]
            check_fit(loras, found, limits.max_rank, limits.denoiser_sha256)
        except InvalidRequest as error:
            raise refusal(error, fields) from None
        return tuple(Lora(lora.name, scale_of(lora, entry)) for lora, entry in zip(loras, found, strict=True))

    def lacking(self, family: FamilySpec, fields: GenerateRequest, limits: Limits) -> list[NoAdapter]:
        """Warnings of the industry and the style that bring adapters, but none that fits what is served."""
        asked = [(kind, name) for kind in KINDS if (name := getattr(fields, kind))]
        listed = self._listed() if asked else []
        warnings = []
        for kind, name in asked:
            theirs = [(owner, entry) for owner, _, entry in listed if getattr(entry, kind) == name]
            if theirs and not any(owner is family and fits(entry, limits) for owner, entry in theirs):
                warnings.append(no_adapter(kind, name, family))
        return warnings

    def _choices(self, kind: str, known: Sequence[str]) -> list[Choice]:
        listed = self._listed()
        named = [name for _, _, entry in listed if (name := getattr(entry, kind))]
        return [choice(kind, name, listed) for name in dict.fromkeys([*known, *sorted(named)])]

    def _listed(self) -> Listed:
        families = self._index.families()
        return [
            (family, name, entry)
            for family in FAMILIES.values()
            for name, entry in families.get(family.name, {}).items()
        ]


def refusal(error: InvalidRequest, fields: GenerateRequest) -> Problem:
    """The answer to a request whose adapters cannot be applied."""
    given = [asked.model_dump() for asked in fields.loras or ()]
    return invalid([ErrorItem(loc=["body", "loras"], msg=str(error), type="not_taken", input=given)])


FACTS = ("scale", "industry", "style", "trigger", "checkpoint", "sha256")


def choice(kind: str, name: str, listed: Listed) -> Choice:
    """What `name`, an industry or a style, makes of a prompt, and the adapters that it brings."""
    words = (None, name) if kind == "industry" else (name, None)
    adapters = [
        ChoiceAdapter(model=family.name, name=adapter, scale=entry.scale)
        for family, adapter, entry in listed
        if getattr(entry, kind) == name
    ]
    return Choice(name=name, prompt_template=compose("{prompt}", *words), adapters=adapters)


def no_adapter(kind: Kind, name: str, family: FamilySpec) -> NoAdapter:
    message = f"{kind} '{name}' has no adapter for what {family.name} serves: it is words in the prompt only"
    return NoAdapter(field=kind, name=name, message=f"{message}; GET /loras lists adapters")


def brought(entry: AdapterEntry, fields: GenerateRequest, limits: Limits) -> bool:
    """Whether the request's industry or style brings this adapter to what is served."""
    names = [name for kind in KINDS if (name := getattr(fields, kind)) and getattr(entry, kind) == name]
    return fits(entry, limits) and bool(names)


def fits(entry: AdapterEntry, limits: Limits) -> bool:
    """Whether this adapter can be applied to what is served, as far as its file tells."""
    return limits.max_rank > 0 and entry.checkpoint_sha256 in (None, limits.denoiser_sha256)
