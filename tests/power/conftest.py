"""What the power tests have tried, said at the end of the run."""
from tests.power import explorer


def pytest_terminal_summary(terminalreporter):
    """One line, also where tests/faults is there and asks for it too."""
    if getattr(terminalreporter, 'power_is_said', False):
        return
    terminalreporter.power_is_said = True
    if explorer.STATES or any(explorer.FIGURES.values()):
        said = ', '.join('%d %s' % (number, name) for name, number in explorer.FIGURES.items() if number)
        terminalreporter.write_line('power: %d distinct crash states; %s' % (len(explorer.STATES), said))
