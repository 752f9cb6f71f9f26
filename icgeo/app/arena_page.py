"""The page of the arena: a photo, two answers without names, a vote; needs the extra [demo].

Conventions: the duels of a visitor live in the session; all visitors vote into the same file.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from icgeo.app import duels as session
from icgeo.app.duels import BETTER, Duel
from icgeo.data.photos import read_photo
from icgeo.evaluation.arena import add_vote
from icgeo.plots import plot_answers

KEPT_SECONDS = 3600
PHOTO_SIZE = (900, 560)
"""Pixels that the width and the height of a photo that is shown have at most."""
_INTRO = """# GeoArena
Which answer is better? Look at the photo and at both places, then vote; whose answers they were is
told after the last vote on a photo. Nothing is fetched from elsewhere; votes are kept in a file on
this server."""
_DONE = "**No photos are left to vote on.** Thank you."


def build(duels: Sequence[Duel], votes: Path) -> Any:
    """Make the page, a `gradio.Blocks`, on which duels are voted on."""
    with gr.Blocks(
        title="GeoArena", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)
    ) as page:
        gr.Markdown(_INTRO)
        duels_left = gr.State((), time_to_live=KEPT_SECONDS)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320):
                look: dict[str, Any] = {"show_label": False, "buttons": [], "interactive": False}
                photo = gr.Image(type="pil", alt_text="Photo", elem_id="photo", **look)
            with gr.Column(min_width=320):
                world = gr.Plot(show_label=False, elem_id="answers")
                text = gr.Markdown(elem_id="places")
        with gr.Row():
            buttons = [
                gr.Button(label, variant="primary", min_width=90, elem_id=f"vote-{number}")
                for number, label in enumerate(BETTER)
            ]
            skip = gr.Button("Skip", min_width=90, elem_id="skip")
        status = gr.Markdown(elem_id="status")
        with gr.Accordion("Ratings so far", open=False, elem_id="ratings"):
            table = gr.Markdown(elem_id="table")
        components = [duels_left, photo, world, text, *buttons, skip]
        options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

        def start() -> list[Any]:
            return [*_show(session.left_to_vote(duels, votes)), session.standings(votes)]

        page.load(start, None, [*components, table], **options)
        for button, label in zip(buttons, BETTER, strict=True):
            vote = partial(_vote, votes, label)
            button.click(
                vote, duels_left, [*components, status, table], trigger_mode="once", **options
            )
        skip.click(
            lambda duels: _show(duels[1:]), duels_left, components, trigger_mode="once", **options
        )
    return page


def _vote(votes: Path, label: str, duels: Sequence[Duel]) -> list[Any]:
    """Keep a vote, tell whose answers they were, and show the next photo."""
    if not duels:
        return [*_show(duels), gr.skip(), gr.skip()]
    add_vote(votes, duels[0].vote(BETTER[label]))
    return [*_show(duels[1:]), session.reveal(duels[0], label, duels[1:]), session.standings(votes)]


def _show(duels: Sequence[Duel]) -> list[Any]:
    """What the parts of the page show of the first duel that is left."""
    buttons = [gr.update(interactive=bool(duels)) for _ in (*BETTER, "skip")]
    if not duels:
        return [(), None, None, _DONE, *buttons]
    duel = duels[0]
    photo = read_photo(duel.photo, size_hint=max(PHOTO_SIZE))
    photo.thumbnail(PHOTO_SIZE)
    figure = plot_answers(duel.a.place, duel.b.place)
    text = f"{session.describe(duel)}\n\n{len(duels)} to go."
    return [tuple(duels), photo, figure, text, *buttons]
