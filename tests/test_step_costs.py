"""What steps cost is learned from those that were taken, and from nothing that they do not tell."""

from codegen_cli.decoding.step_costs import StepCosts


def learned(*steps: tuple[int, float]) -> StepCosts:
    costs = StepCosts()
    for n_ids, seconds in steps:
        costs.learn(n_ids, seconds)
    return costs


def test_nothing_is_known_before_the_first_step():
    costs = StepCosts()
    assert costs.seconds(5) == 0
    assert costs.id_cost(1) is None


def test_what_one_more_id_of_a_prompt_costs_is_learned_beside_the_smallest_steps():
    costs = learned((4, 0.02), (64, 0.14))
    assert abs(costs.seconds(34) - 0.08) < 1e-9


def test_two_large_steps_do_not_tell_what_small_ones_cost():
    """A prompt's last chunk is read after more positions than its first ones, and thus slower."""
    misled = learned((28, 0.13), (64, 0.14), (4, 0.02))
    assert misled.seconds(64) == learned((4, 0.02)).seconds(64)
