"""Styles and industries that a request may name, worded as in the training captions."""

STYLES = ("professional", "playful", "minimal", "vintage", "luxury", "bold")
INDUSTRIES = (
    "technology", "healthcare", "food", "fashion", "fitness",
    "travel", "real estate", "education", "finance", "automotive",
)  # fmt: skip


def style_phrase(style: str) -> str:
    return f"{style} style"


def industry_phrase(industry: str) -> str:
    return f"for the {industry} industry"
