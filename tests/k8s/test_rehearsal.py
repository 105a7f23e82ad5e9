import pytest

from tests.k8s.rehearsal import rehearse


@pytest.mark.slow
@pytest.mark.dist
def test_the_manifests_bring_a_run_through_the_loss_of_every_pod(tmp_path):
    rehearsal = rehearse(tmp_path)
    assert rehearsal.faults == [], "\n".join(rehearsal.lines)
