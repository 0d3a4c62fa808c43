"""Industries and styles: what each appends to a prompt, in the words of the training captions."""

STYLES = {
    name: f"{{prompt}}, {name} style"
    for name in ("professional", "playful", "minimal", "vintage", "luxury", "bold")
}
INDUSTRIES = {
    name: f"{{prompt}}, for the {name} industry"
    for name in (
        "technology", "healthcare", "food", "fashion", "fitness",
        "travel", "real estate", "education", "finance", "automotive",
    )
}  # fmt: skip


def compose(prompt: str, style: str | None, industry: str | None) -> str:
    """The prompt that the model gets: `prompt`, then the style's words, then the industry's."""
    styled = STYLES[style].format(prompt=prompt) if style else prompt
    return INDUSTRIES[industry].format(prompt=styled) if industry else styled
