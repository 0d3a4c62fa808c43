"""The file that export leaves for the scheduler stage: how latents look as a small picture."""

FILE_NAME = (
    "preview.json"  # weight [C][3] and bias [3]: RGB, 0..255, of a pixel from the C latents of its place
)
