"""EleutherAI's lm-evaluation-harness drives kdjax's models: `--model kdjax`.

`python -m kdjax.harness` is its own command line with this model registered. From
Python, import this module and call `lm_eval.simple_evaluate(model="kdjax",
model_args={"path": "runs/x"}, tasks=[...])`. It needs the extra "harness".
"""

import itertools
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)

from kdjax.checkpoints import open_model
from kdjax.config.parsing import advice, convert, in_line, shown
from kdjax.config.schema import MeshConfig
from kdjax.core.errors import UsageError
from kdjax.evaluation.continuing import Continuer
from kdjax.evaluation.evaluators import until
from kdjax.evaluation.likelihood import Subject, likelihoods
from kdjax.evaluation.pairs import Pair, encode_pairs, encode_prompt, first_token
from kdjax.generation.sampling import Sampling
from kdjax.parallel.sharding import make_mesh

_LONGEST = 2048  # positions to use where a model has any number, as the harness has it
_SAMPLING = ("temperature", "top_k", "top_p")


@register_model("kdjax")
class KdjaxLM(TemplateLM):
    """Any model that `open_model` opens, as the harness sees a model.

    Control tokens that a text spells are parsed, because the harness writes prompts and
    chat templates as text.
    """

    def __init__(
        self,
        path: str,
        batch_size: int | str = 16,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        dtype: str | None = None,
        seed: int = 0,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """Loads the model.

        Args:
            path: Whatever `open_model` takes.
            batch_size: Rows at a time, on each device; "auto": 16.
            max_length: The most positions to use; None: as many as the model has, or
                2,048.
            max_gen_toks: The most tokens of an answer whose task names no limit.
            dtype: As `StoredModel.load` takes it.
            seed: Determines what is sampled.
            device: Not used: JAX chooses the devices.
            max_batch_size: Not used.

        Raises:
            UsageError: There is no such model, or an argument is wrong.
        """
        super().__init__()
        del device, max_batch_size
        self._stored = open_model(path, named="path")
        config, mesh = self._stored.config, make_mesh(MeshConfig())
        if max_length and config.max_length and max_length > config.max_length:
            raise UsageError(
                f"max_length={max_length} exceeds the {config.max_length} positions "
                "that the model was made for; lower it"
            )
        self.max_length = max_length or config.max_length or _LONGEST
        self.max_gen_toks, self._seed = max_gen_toks, seed
        rows = 16 if str(batch_size).startswith("auto") else _whole(batch_size)
        if rows < 1:
            raise UsageError(f"batch_size={batch_size} must be at least 1")
        self._size, self._mesh = rows * mesh.size, mesh
        model, self._params = self._stored.load(mesh, dtype=dtype)
        self._subject = Subject.of(model)
        self._encoder = self._stored.tokenizer
        self._continuers: dict[Sampling, Continuer] = {}

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "KdjaxLM":
        """Returns the model of some `model_args`.

        Args:
            arg_dict: The `model_args`.
            additional_config: The harness's own arguments, which `model_args` override;
                its command line always has a batch size, by default 1.

        Raises:
            UsageError: There is no such model, or an argument is unknown or wrong.
        """
        own = additional_config or {}
        given = {key: value for key, value in own.items() if value is not None}
        return cls(**{**given, **_checked(arg_dict)})

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> "KdjaxLM":
        """Returns the model of `model_args` as text."""
        arguments = simple_parse_args_string(arg_string)
        return cls.create_from_arg_obj(arguments, additional_config)

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self._encoder.end_of_text

    @property
    def prefix_token_id(self) -> int:
        """The id that a text without any context follows."""
        return first_token(self._encoder)

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps its cached requests under."""
        return f"kdjax-{self._encoder.sha256[:16]}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Returns a text's ids, with the prefix unless it is not wanted."""
        del kwargs
        if add_special_tokens is False:
            ids: list[int] = self._encoder.encoder.texts([string], "parse")[0].tolist()
            return ids
        return encode_prompt(self._encoder, string, "parse")

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Returns, for each (context, continuation), its log-likelihood and greediness.

        Args:
            requests: Instances of the harness.
            disable_tqdm: Not used: there is no progress bar.
        """
        del disable_tqdm
        texts = [request.args for request in requests]
        pairs = encode_pairs(self._encoder, texts, "parse")
        found = [(each.log, each.is_greedy) for each in self._likelihoods(pairs)]
        for text, answer in zip(texts, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", text, answer)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Returns the same for ids that the harness's own code has encoded."""
        del kwargs
        pairs = [Pair(context, continuation) for _, context, continuation in requests]
        return [(each.log, each.is_greedy) for each in self._likelihoods(pairs)]

    def _likelihoods(self, pairs: Sequence[Pair]) -> Sequence[Any]:
        return likelihoods(
            self._subject,
            self._params,
            pairs,
            mesh=self._mesh,
            batch_size=self._size,
            longest=self.max_length,
        )

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Returns the log-likelihood of each whole text, in windows if it is long."""
        del disable_tqdm
        windows: list[Pair] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            found = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(make_disjoint_window, found):
                windows.append(Pair(*window))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, found_ in zip(owners, self._likelihoods(windows), strict=True):
            totals[owner] += found_.log
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[str]:
        """Returns what follows each context, up to the first of its stop texts.

        Raises:
            UsageError: A task asks for what cannot be done, such as beam search.
        """
        del disable_tqdm
        found = [""] * len(requests)
        options = [
            normalize_gen_kwargs(request.args[1], self.max_gen_toks)
            for request in requests
        ]
        numbers = sorted(range(len(requests)), key=lambda i: repr(options[i]))
        for _, group in itertools.groupby(numbers, key=lambda i: repr(options[i])):
            chosen = list(group)
            texts = [requests[i].args[0] for i in chosen]
            for i, said in zip(
                chosen, self._say(texts, options[chosen[0]]), strict=True
            ):
                found[i] = said
                self.cache_hook.add_partial("generate_until", requests[i].args, said)
        return found

    def _say(self, contexts: Sequence[str], options: Any) -> Iterable[str]:
        """Returns the answers to contexts that have the same options."""
        options = dict(options)
        stops: list[str] = [stop for stop in options.pop("until") if stop]
        most, is_sampled = options.pop("max_gen_toks"), options.pop("do_sample")
        given = {key: options.pop(key) for key in _SAMPLING if key in options}
        if unknown := [key for key, value in options.items() if value is not None]:
            raise UsageError(
                f"generation_kwargs has {unknown[0]!r}, which kdjax does not know; it "
                f"knows until, max_gen_toks, do_sample, {', '.join(_SAMPLING)}"
            )
        given = {"temperature": 1.0} | given
        sampling = Sampling(**given) if is_sampled else Sampling()
        sampling.check()
        if most >= self.max_length:
            raise UsageError(
                f"max_gen_toks={most} leaves no room for a prompt in "
                f"max_length={self.max_length}; lower it"
            )
        if sampling not in self._continuers:
            self._continuers[sampling] = Continuer(
                self._subject.models[0],
                self._encoder,
                batch_size=self._size,
                sampling=sampling,
            )
        prompts = [encode_prompt(self._encoder, text, "parse") for text in contexts]

        def is_done(number: int, text: str) -> bool:
            return any(stop in text for stop in stops)

        said = self._continuers[sampling](
            self._params,
            prompts,
            max_tokens=most,
            is_done=is_done,
            longest=self.max_length,
            seed=self._seed,
        )
        return [until(text, stops) for text in said]

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Returns the tokenizer's chat template, which the harness records."""
        return self._encoder.chat.template if chat_template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Returns a conversation as the tokenizer's chat template writes it.

        Raises:
            UsageError: There is no template, or it fails.
        """
        return self._encoder.chat.render_all(
            chat_history, answers=add_generation_prompt
        )

    def get_model_info(self) -> dict[str, Any]:
        """Returns what the harness writes beside its results."""
        shapes = jax.tree.leaves(self._params)
        return {
            "model_num_parameters": sum(leaf.size for leaf in shapes),
            "model_sha": self._stored.fingerprint,
        }


def _checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `model_args` of the right names and types.

    The harness makes numbers of what looks like one, which a path may.
    """
    hints = typing.get_type_hints(KdjaxLM.__init__)
    del hints["return"]
    for name in arguments:
        if name not in hints:
            known = advice(name, hints, "those that exist")
            raise UsageError(f"model_args has {in_line(name)!r}; {known}")
    if "path" not in arguments:
        raise UsageError("model_args has no path; give one, such as path=runs/x")
    found = dict(arguments) | {"path": str(arguments["path"])}
    for name in found.keys() - {"batch_size"}:  # a number or a word
        found[name] = convert(found[name], hints[name], f"model_args: {name}")
    return found


def _whole(value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise UsageError(
            f"batch_size={shown(value)} must be a number or auto"
        ) from None
