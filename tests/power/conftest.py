"""What the power tests have tried, said at the end of the run."""
from tests.power import explorer


def pytest_terminal_summary(terminalreporter):
    """One line."""
    if explorer.STATES or explorer.FIGURES["faults"]:
        said = ', '.join('%d %s' % (number, name) for name, number in explorer.FIGURES.items() if number)
        terminalreporter.write_line('power: %d distinct crash states; %s' % (len(explorer.STATES), said))
