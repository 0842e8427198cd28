"""The kinds of video that models are asked about: four that they are trained to look at too, and one apart."""

from __future__ import annotations

from dataclasses import dataclass

from prunevid_qwen.moving_shapes.scene import Scene, make_scene

SECONDS = 8.0
"""How long every video lasts."""

_SCENE_FRAMES = 16  # whatever appears is seen in two of so many frames, as in training, also where more are taken


@dataclass(frozen=True)
class Condition:
    """A kind of video.

    Args:
        name: as in tables and plots.
        height: pixels, a multiple of 28.
        width: pixels, a multiple of 28.
        frames: how many are looked at, even.
        objects: fewest and most shapes.
        cut_share: chance of a cut.
        shake_share: chance that the camera shakes.
        most_distractors: dots at most.
        drift_share: chance that the camera drifts all the time.
    """

    name: str
    height: int
    width: int
    frames: int
    objects: tuple[int, int] = (1, 3)
    cut_share: float = 0.0
    shake_share: float = 0.0
    most_distractors: int = 0
    drift_share: float = 0.0

    @property
    def tokens(self) -> int:
        """Visual tokens of a whole video."""
        return self.frames // 2 * (self.height // 28) * (self.width // 28)

    def scene(self, seed: int) -> Scene:
        """Invent the scene of a video of this kind; the same seed gives the same scene everywhere."""
        return make_scene(
            seed,
            self.height,
            self.width,
            min(self.frames, _SCENE_FRAMES),
            most_objects=self.objects[1],
            least_objects=self.objects[0],
            cut_share=self.cut_share,
            shake_share=self.shake_share,
            most_distractors=self.most_distractors,
            drift_share=self.drift_share,
        )


CONDITIONS: dict[str, Condition] = {
    each.name: each
    for each in (
        Condition("plain", 112, 112, 16),
        Condition("long", 112, 112, 32, cut_share=0.5, most_distractors=2),
        Condition("clutter", 168, 168, 16, objects=(4, 6), cut_share=0.3, most_distractors=3),
        Condition("shake", 168, 168, 16, objects=(2, 4), shake_share=1.0, most_distractors=1),
    )
}
"""What benchmark and training take where no kind is named: in this order, on which the seeds of stored runs rest."""

BY_NAME: dict[str, Condition] = {
    **CONDITIONS,
    # what shakes, with a camera that moves at every frame: no toy was trained on it
    "drift": Condition("drift", 168, 168, 16, objects=(2, 4), most_distractors=1, drift_share=1.0),
}
"""Every kind that a measurement can be asked for by name."""
