"""The exported graph: int8 products stay exact on every processor, rows keep their own scale."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.ww_models.samples import small
from ww_models.streaming.onnx_export import exact_without_vnni, export_step, quantized

NUM_INPUTS, NUM_OUTPUTS = 384, 96


def product_graph(*, bias: bool = False, transposed: bool = False) -> tuple[onnx.ModelProto, np.ndarray]:
    """y = x @ w, maybe + b, of a size that is worth int8, with the weights (384, 96)."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((NUM_INPUTS, NUM_OUTPUTS)).astype(np.float32)
    stored = {"w": weight.T.copy() if transposed else weight}
    if bias:
        stored["b"] = rng.standard_normal(NUM_OUTPUTS).astype(np.float32)
    attributes = {"transB": 1} if transposed else {}
    node = helper.make_node("Gemm" if bias or transposed else "MatMul", ["x", *stored], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", NUM_INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", NUM_OUTPUTS])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), weight


def stored_weights(graph: onnx.ModelProto) -> list[np.ndarray]:
    """The int8 matrices of a graph, as int32."""
    return [
        numpy_helper.to_array(tensor).astype(np.int32)
        for tensor in graph.graph.initializer
        if tensor.data_type == TensorProto.INT8
    ]


def run(graph: onnx.ModelProto, x: np.ndarray, *, exact: bool = True) -> list[np.ndarray]:
    """The outputs of a graph for x. exact: without the saturation that 8-bit weights meet where there is no VNNI."""
    options = onnxruntime.SessionOptions()
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


def saturating_product(x_u8: np.ndarray, weight_s8: np.ndarray) -> np.ndarray:
    """What processors without VNNI compute: two neighbouring products are added in 16 bits and saturate."""
    pairs = x_u8.reshape(len(x_u8), -1, 2, 1).astype(np.int32) * weight_s8.reshape(-1, 2, weight_s8.shape[1])
    return pairs.sum(2).clip(-(2**15), 2**15 - 1).sum(1)


def snr_db(expected: np.ndarray, given: np.ndarray) -> float:
    return float(10 * np.log10((expected**2).sum() / ((expected - given) ** 2).sum()))


def test_with_seven_bits_no_pair_of_products_can_overflow() -> None:
    (weight,) = stored_weights(quantized(product_graph()[0], weight_bits=7))
    assert np.abs(weight).max() == 63
    pairs = np.abs(weight).reshape(-1, 2, NUM_OUTPUTS).sum(1)
    assert 255 * pairs.max() <= 2**15 - 1
    loudest = np.full((1, NUM_INPUTS), 255, np.uint8)
    np.testing.assert_array_equal(saturating_product(loudest, weight), loudest.astype(np.int32) @ weight)


def test_with_eight_bits_they_do() -> None:
    (weight,) = stored_weights(quantized(product_graph()[0], weight_bits=8))
    assert np.abs(weight).max() == 127
    loudest = np.full((1, NUM_INPUTS), 255, np.uint8)
    assert (saturating_product(loudest, weight) != loudest.astype(np.int32) @ weight).any()


def test_with_eight_bits_there_is_a_form_that_is_exact_on_every_processor() -> None:
    graph = quantized(product_graph()[0], weight_bits=8)
    exact = onnx.load_from_string(exact_without_vnni(graph.SerializeToString()))
    onnx.checker.check_model(exact)
    (weight,) = stored_weights(graph)
    scale = next(
        numpy_helper.to_array(item) for item in graph.graph.initializer if item.name == "w.int8_scale"
    )
    # The loudest input: in 16 bits its products saturate.
    (y,) = run(exact, np.ones((1, NUM_INPUTS), np.float32), exact=False)
    np.testing.assert_allclose(y[0], weight.sum(0) * scale, rtol=1e-5, atol=1e-4)
    narrow = quantized(product_graph()[0], weight_bits=7).SerializeToString()
    assert exact_without_vnni(narrow) == narrow, "it is exact as it is"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("weight_bits", "exact", "least_db"), [(8, True, 38), (7, True, 34), (7, False, 34)])
def test_the_product_is_that_of_the_floats(
    bias: bool, weight_bits: int, exact: bool, least_db: float
) -> None:
    """8 bits where sums are exact, 7 in either form of session: both hold with VNNI and without."""
    graph, _ = product_graph(bias=bias)
    x = np.random.default_rng(1).standard_normal((5, NUM_INPUTS)).astype(np.float32)
    int8 = quantized(graph, weight_bits)
    onnx.checker.check_model(int8)
    (expected,), (given,) = run(graph, x), run(int8, x, exact=exact)
    assert snr_db(expected, given) > least_db


def test_a_loud_row_changes_no_other() -> None:
    graph = quantized(product_graph()[0])
    x = np.random.default_rng(1).standard_normal((3, NUM_INPUTS)).astype(np.float32)
    louder = x * np.array([[1], [1000], [1]], np.float32)
    (y,), (y_louder,), (y_alone,) = (run(graph, rows) for rows in (x, louder, x[:1]))
    np.testing.assert_array_equal(y_louder[[0, 2]], y[[0, 2]])
    np.testing.assert_array_equal(y_alone[0], y[0])


def test_silent_rows_give_zero() -> None:
    (y,) = run(quantized(product_graph()[0]), np.zeros((2, NUM_INPUTS), np.float32))
    np.testing.assert_array_equal(y, 0)


def test_a_transposed_product_stays_as_it_is() -> None:
    graph, _ = product_graph(transposed=True)
    assert not stored_weights(quantized(graph))


def test_a_weight_of_several_products_is_stored_once() -> None:
    graph, weight = product_graph()
    graph.graph.node.insert(0, helper.make_node("Neg", ["x"], ["minus_x"]))
    graph.graph.node.append(helper.make_node("MatMul", ["minus_x", "w"], ["z"]))
    graph.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", NUM_OUTPUTS]))
    int8 = quantized(graph, weight_bits=7)
    onnx.checker.check_model(int8)
    assert len(stored_weights(int8)) == 1
    assert sorted(tensor.name for tensor in int8.graph.initializer if "w" in tensor.name) == [
        "w.int8",
        "w.int8_scale",
    ]
    x = np.random.default_rng(1).standard_normal((5, NUM_INPUTS)).astype(np.float32)
    y, z = run(int8, x, exact=False)
    assert snr_db(x @ weight, y) > 34
    assert snr_db(-x @ weight, z) > 34


def test_a_recurrent_layer_of_several_rows_a_step_stores_its_weights_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ww_models.streaming.onnx_export.MIN_INT8_WEIGHTS", 1)
    monkeypatch.setattr("ww_models.streaming.onnx_export.MIN_INT8_INPUTS", 1)
    model = small("gatewave", depth=2)
    graph = export_step(model)
    int8 = quantized(graph)
    uses = Counter(node.input[1] for node in graph.graph.node if node.op_type in ("Gemm", "MatMul"))
    num_products = sum(node.op_type == "MatMulInteger" for node in int8.graph.node)
    assert max(uses.values()) == model.hop_samples // model.stride > 4
    assert len(stored_weights(int8)) == len(uses) < sum(uses.values()) == num_products


def test_only_large_products_are_brought_to_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = export_step(small("gatewave"))
    assert not stored_weights(quantized(graph))
    monkeypatch.setattr("ww_models.streaming.onnx_export.MIN_INT8_WEIGHTS", 1)
    monkeypatch.setattr("ww_models.streaming.onnx_export.MIN_INT8_INPUTS", 1)
    before = graph.SerializeToString()
    int8 = quantized(graph)
    weights = {node.input[1] for node in graph.graph.node if node.op_type in ("Gemm", "MatMul")}
    assert len(stored_weights(int8)) == len(weights) > 0
    assert graph.SerializeToString() == before, "the graph that was given is left as it was"


def test_the_batch_is_all_that_is_free() -> None:
    graph = export_step(small("demucs")).graph
    for value in graph.input:
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert all(dim.dim_value > 0 for dim in others), value.name
    states = [value.name for value in graph.input][1:]
    assert [value.name for value in graph.output] == ["output", *(f"next.{name}" for name in states)]


@pytest.mark.parametrize("name", ["gatewave-original", "waveunet-original", "waveunet-both-ways"])
def test_a_model_that_has_no_steps_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"no streaming step \(causal=False.*take a model with"):
        export_step(small(name))


@pytest.mark.parametrize("weight_bits", [4, 9])
def test_other_widths_are_refused(weight_bits: int) -> None:
    with pytest.raises(ValueError, match=f"weight_bits is {weight_bits}: give 8, or 7"):
        quantized(product_graph()[0], weight_bits)
