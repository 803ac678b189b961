"""What the report shows of single texts: predictions and continuations."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from kdjax.core.compilation import little_optimised
from kdjax.evaluation.continuations import Prompt, choose_prompts, continue_prompts
from kdjax.evaluation.passage import choose_text, make_scores, read_passage
from kdjax.experiment.setting import Setting
from kdjax.experiment.teachers import Teachers
from kdjax.generation.decode import Generator
from kdjax.models import Model
from kdjax.parallel.sharding import Batch, data_shard, to_devices
from kdjax.results.data import headline
from kdjax.results.samples import Continuation, Passage
from kdjax.targets.online import of_model
from kdjax.text.pieces import make_pieces, read_along

_PASSAGE, _PROMPTS, _PROMPT, _TOKENS = 160, 3, 32, 48  # tokens, but for _PROMPTS


class Texts:
    """The held-out texts that all models of an experiment are shown."""

    def __init__(self, teachers: Teachers, setting: Setting) -> None:
        """Computes nothing yet.

        Args:
            teachers: What passages are compared with.
            setting: The experiment's setting.
        """
        self.setting, self._teachers = setting, teachers
        splits = setting.prepared.splits
        self._rows = splits[headline(splits)]
        self.tokenizer = setting.prepared.tokenizer
        self.passage = choose_text(self._rows, _PASSAGE)

    @functools.cached_property
    def prompts(self) -> list[Prompt]:
        """What models continue."""
        return choose_prompts(self._rows, _PROMPTS, prompt=_PROMPT, tokens=_TOKENS)

    @functools.cached_property
    def batch(self) -> Batch:
        """The passage, padded to the shape of an evaluation's batches.

        So models read it with programs that are compiled already.
        """
        mesh, config = self.setting.mesh, self.setting.config
        rows, length = self.passage.tokens.shape
        size = -(-rows // config.evaluate.batch_size) * config.evaluate.batch_size
        empty = (0, size - rows), (0, config.data.length - length)
        share = data_shard(mesh, size)
        local = {
            name: np.pad(values, empty)[[*share.rows]]
            for name, values in self.passage._asdict().items()
        }
        return to_devices(local, mesh, share)

    @functools.cached_property
    def taught(self) -> np.ndarray:
        """The logits of the teacher, or of the ensemble."""
        frozen = self._teachers.frozen(tuple(self._teachers.trained))
        predict = self._teachers.predict()
        scores = make_scores(predict, self.passage, self.setting.mesh)
        return np.asarray(scores(frozen, self.batch))

    def read(self, logits: np.ndarray) -> Passage:
        """Returns what a model with these logits predicts in the passage."""
        text = self.passage
        return read_passage(text, self._texts, logits, self.taught, self._piece)

    def teacher_passage(self) -> Passage:
        """Returns what the teacher or the ensemble predicts in the passage."""
        return self.read(self.taught)

    @functools.cached_property
    def _texts(self) -> list[str]:
        ids = self.passage.tokens[self.passage.segments > 0].tolist()
        return [*read_along(self.tokenizer, ids)]

    @functools.cached_property
    def _piece(self) -> Callable[[int], str]:
        return make_pieces(self.tokenizer)


class CloseUp:
    """Looks at models of one architecture; its programs are compiled once."""

    def __init__(self, model: Model, texts: Texts) -> None:
        """Compiles nothing yet."""
        self._model, self._texts = model, texts
        mesh = texts.setting.mesh
        self._scores = make_scores(of_model(model), texts.passage, mesh)
        self._generator: Generator | None = None

    def passage(self, params: Any) -> Passage:
        """Returns what the model predicts in the passage."""
        return self._texts.read(np.asarray(self._scores(params, self._texts.batch)))

    def continuations(self, params: Any) -> tuple[Continuation, ...]:
        """Returns how the model continues the prompts; nothing if it cannot decode."""
        prompts, model = self._texts.prompts, self._model
        room = (model.config.max_length or _PROMPT + _TOKENS) - _PROMPT
        # A process of several can read only its own part of what is generated.
        is_shared = jax.process_count() > 1
        if model.decode is None or is_shared or room < 1 or not prompts:
            return ()
        if self._generator is None:
            stops = self._texts.tokenizer.stops
            options = little_optimised()
            self._generator = Generator(model, params, stops=stops, options=options)
        generator = self._generator.with_params(params)
        tokens = min(_TOKENS, room)
        return continue_prompts(generator, prompts, self._texts.tokenizer, tokens)

    def student(self, role: str, seed: int, params: Any) -> dict[str, Any]:
        """Returns the fields of a `Run` that show a student at work, of one seed."""
        setting = self._texts.setting
        if seed != setting.config.seed:
            return {}
        is_shown = role in ("student", "twin")
        with setting.clock("evaluation"):
            return {
                "passage": self.passage(params) if is_shown else None,
                "continuations": self.continuations(params),
            }
