"""What a style and an industry append to a prompt."""

from families.wording import industry_phrase, style_phrase


def compose(prompt: str, style: str | None, industry: str | None) -> str:
    """The prompt that the model gets: `prompt`, then the style's words, then the industry's."""
    phrases = [style_phrase(style)] if style else []
    phrases += [industry_phrase(industry)] if industry else []
    return ", ".join([prompt, *phrases])
