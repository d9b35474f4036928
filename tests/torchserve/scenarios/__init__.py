"""Every scenario, by its name."""

from tests.torchserve.scenarios import handlers, inference, management, settings

SCENARIOS = {
    scenario.name: scenario
    for scenario in (*inference.SCENARIOS, *handlers.SCENARIOS, *management.SCENARIOS, *settings.SCENARIOS)
}
