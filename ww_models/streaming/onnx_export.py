"""The streaming step of a model as an ONNX graph, in fp32 or with int8 products.

Inputs are `chunk` (batch, hop) and the state, one tensor for each layer that remembers something; outputs are
`output` (batch, hop) and each state tensor again as `next.<name>`. The batch is dynamic, all else is fixed.
"""

import io
import warnings
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ww_models.checks import require
from ww_models.denoiser import Denoiser
from ww_models.layers.step import StreamingStep
from ww_models.streaming.engine import step_of

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
CHUNK, OUTPUT, NEXT = "chunk", "output", "next."
OPSET = 20
# Smaller products are sooner done in fp32 than their input is brought to int8.
MIN_INT8_WEIGHTS, MIN_INT8_INPUTS = 32_768, 96


def export_step(model: Denoiser, num_hops: int = 1) -> onnx.ModelProto:
    """The step of a causal model as fp32 ONNX. ValueError if the model needs the whole clip."""
    step = step_of(model, num_hops)
    state = step.initial_state(2)
    inputs, outputs = [CHUNK, *state], [OUTPUT, *(NEXT + name for name in state)]
    graph = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that traces is old and says so. The new one is many times slower on such a graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Flat(step, list(state)).eval(),
            (torch.zeros(2, step.hop_samples), *state.values()),
            graph,  # type: ignore[arg-type]  # the tracing exporter writes to files in memory too
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in inputs + outputs},
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(graph.getvalue())


class _Flat(nn.Module):
    """A step whose state is a row of arguments and results, as a graph wants it."""

    def __init__(self, step: StreamingStep, names: list[str]) -> None:
        super().__init__()
        self.step, self.names = step, names

    def forward(self, chunk: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        output, kept = self.step(chunk, dict(zip(self.names, state, strict=True)))
        return output, *(kept[name] for name in self.names)


def quantized(graph: onnx.ModelProto, weight_bits: int = 8) -> onnx.ModelProto:
    """A copy whose large matrix products run in int8. Weights get a scale per output, inputs one per row.

    Constants, which is what buffers that are no part of a state become (the matrices of a spectrum), are no weights.
    A row is one stream at one moment, so no stream changes the scale of another. With weight_bits=7 sums of
    two products fit 16 bits: processors without VNNI add them there, and saturate.
    """
    require(weight_bits in (7, 8), f"weight_bits is {weight_bits}: give 8, or 7 for processors without VNNI")
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {
        "int8.abs_axis": np.array([-1], np.int64),
        "int8.step": np.array(1 / 127, np.float32),
        "int8.floor": np.array(1e-12, np.float32),
        "int8.centre": np.array(128.5, np.float32),  # truncated after this, so it rounds
        "int8.zero": np.array(128, np.uint8),
    }
    for node in copy.graph.node:
        weight = weights.get(node.input[1]) if _is_plain_product(node) else None
        if weight is None or not _is_worthwhile(weight):
            nodes.append(node)
            continue
        has_sum = node.op_type == "Gemm"
        name = node.output[0] + ".product" if has_sum else node.output[0]
        # A recurrent layer uses its weight once for each row of a step.
        if f"{weight.name}.int8" not in constants:
            matrix = numpy_helper.to_array(weight)
            scale = np.maximum(np.abs(matrix).max(axis=0), 1e-12) / (2 ** (weight_bits - 1) - 1)
            constants[f"{weight.name}.int8"] = np.round(matrix / scale).astype(np.int8)
            constants[f"{weight.name}.int8_scale"] = scale.astype(np.float32)
        nodes.extend(_int8_product(node.input[0], weight.name, name))
        if has_sum:
            nodes.append(helper.make_node("Add", [name, node.input[2]], list(node.output)))
    used = {name for node in nodes for name in node.input}
    stored = [tensor for name, tensor in weights.items() if name in used]
    stored += [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(stored)
    return copy


def _is_plain_product(node: onnx.NodeProto) -> bool:
    """x @ w or x @ w + b, with no factors and nothing transposed."""
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return node.op_type == "MatMul" or (
        node.op_type == "Gemm"
        and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        and not (attributes.get("transA", 0) or attributes.get("transB", 0))
    )


def _is_worthwhile(weight: TensorProto) -> bool:
    num_inputs, num_outputs = weight.dims
    return num_inputs >= MIN_INT8_INPUTS and num_inputs * num_outputs >= MIN_INT8_WEIGHTS


def _int8_product(x: str, weight: str, y: str) -> Iterator[onnx.NodeProto]:
    """Nodes that compute y = x @ weight from int8; names of what lies between start with that of y."""

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], name=f"{output}.{op}", **attributes)

    yield node("Abs", [x], f"{y}.abs")
    yield node("ReduceMax", [f"{y}.abs", "int8.abs_axis"], f"{y}.peak", keepdims=1)
    yield node("Mul", [f"{y}.peak", "int8.step"], f"{y}.steps")
    yield node("Add", [f"{y}.steps", "int8.floor"], f"{y}.step")
    yield node("Div", [x, f"{y}.step"], f"{y}.scaled")
    yield node("Add", [f"{y}.scaled", "int8.centre"], f"{y}.positive")
    yield node("Cast", [f"{y}.positive"], f"{y}.uint8", to=TensorProto.UINT8)
    yield node("MatMulInteger", [f"{y}.uint8", f"{weight}.int8", "int8.zero"], f"{y}.int32")
    yield node("Cast", [f"{y}.int32"], f"{y}.float", to=TensorProto.FLOAT)
    yield node("Mul", [f"{y}.float", f"{weight}.int8_scale"], f"{y}.weighted")
    yield node("Mul", [f"{y}.weighted", f"{y}.step"], y)


def exact_without_vnni(graph: bytes) -> bytes:
    """A graph whose int8 products are exact on processors without VNNI, too: slower, if weights have 8 bits.

    Such weights become unsigned, around 128: products of those are added in 32 bits everywhere. ONNX Runtime's own
    way, `session.x64quantprecision`, fails where one weight is used in several products.
    """
    exact = onnx.load_from_string(graph)
    int8 = [tensor for tensor in exact.graph.initializer if tensor.data_type == TensorProto.INT8]
    weights = [numpy_helper.to_array(tensor).astype(np.int16) for tensor in int8]
    if all(np.abs(weight).max() < 64 for weight in weights):
        return graph
    for tensor, weight in zip(int8, weights, strict=True):
        tensor.CopyFrom(numpy_helper.from_array((weight + 128).astype(np.uint8), tensor.name))
    for node in exact.graph.node:
        if node.op_type == "MatMulInteger":
            node.input.append("int8.zero")
    return exact.SerializeToString()
