"""Industries and styles: what each appends to a prompt."""

from families import wording

STYLES = {name: f"{{prompt}}, {wording.style_phrase(name)}" for name in wording.STYLES}
INDUSTRIES = {name: f"{{prompt}}, {wording.industry_phrase(name)}" for name in wording.INDUSTRIES}


def compose(prompt: str, style: str | None, industry: str | None) -> str:
    """The prompt that the model gets: `prompt`, then the style's words, then the industry's."""
    styled = STYLES[style].format(prompt=prompt) if style else prompt
    return INDUSTRIES[industry].format(prompt=styled) if industry else styled
