"""LoadGen drives a stack's default variant, and its asynchronous one."""

from backends.registry import stacks
from bench.loadgen.detail_log import load_result, read_details, read_labels
from bench.loadgen.settings import PERFORMANCE_ONLY, accuracy_settings, performance_settings
from bench.machine.facts import usable_cores
from bench.suite.arms import Case
from bench.worker.loadgen import ACCURACY_ONLY
from bench.worker.messages import RunLoad
from tests.contract.conftest import TIMEOUT_S
from tests.contract.test_inference import oracle_logits

# 64 images: a whole number of batches, the last of which is full.
IMAGES, BATCH = 64, 16


def test_loadgen_gets_the_labels_of_the_network_and_a_valid_time(served, tmp_path) -> None:
    is_asynchronous = stacks()[served.stack].variants[served.name].asynchronous
    case = Case("cnn-small", "offline", BATCH)
    name = served.build("cnn-small", BATCH, streams=usable_cores() if is_asynchronous else 1)

    def run(mode, settings):
        folder = tmp_path / mode
        folder.mkdir()
        request = RunLoad(
            case=name, scenario="Offline", mode=mode, settings=settings, samples=IMAGES, folder=str(folder),
            cores=(), asynchronous=is_asynchronous,
        )  # fmt: skip
        served.worker.request(request, TIMEOUT_S)
        return folder

    labels = read_labels(run(ACCURACY_ONLY, accuracy_settings(case)))
    expected = oracle_logits(served, "cnn-small", IMAGES).argmax(axis=1)
    assert [labels[index] for index in range(IMAGES)] == list(expected)
    settings = performance_settings(case, load_ms=1, expected_ns=1000, images=IMAGES, seed=1)
    result = load_result(case, settings, read_details(run(PERFORMANCE_ONLY, settings)))
    assert (result.valid, result.reasons) == (True, ())
    assert int(result.effective["samples_per_query"]) == settings["min_query_count"]
