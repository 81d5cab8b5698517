"""cases.txt against the suite: no case without an entry, no entry without a reason, no test that is not there."""
import ast
import pathlib
import re

HERE = pathlib.Path(__file__).parent
TESTS = HERE.parent
COUNTS = {'G': 40, 'T': 7, 'H': 8, 'Q': 39, 'L': 36, 'R': 30, 'A': 18, 'S': 19, 'D': 17, 'P': 13}
CASES = ['%s-%02d' % (letter, number)
         for letter, count in COUNTS.items() for number in range(1, count + 1)]
NAMED = re.compile(r'\b([GTHQLRASDP])-(\d\d)\b')


def table():
    """[(case, sentence, [tests], [notes])] as they stand in the file."""
    found = []
    for line in (HERE / 'cases.txt').read_text().splitlines():
        if not line or line.startswith('#'):
            continue
        word = line.strip()
        if not line.startswith(' '):
            case, _, sentence = word.partition('  ')
            found.append((case, sentence, [], []))
        elif word.startswith(('does not apply', 'open')):
            found[-1][3].append(word)
        else:
            found[-1][2].append(word)
    return found


def names_in(path):
    """{name: docstring} of the tests of a file; a state machine counts as one."""
    tree = ast.parse(path.read_text())
    return {node.name: ast.get_docstring(node) or '' for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) or isinstance(node, ast.FunctionDef) and node.name.startswith('test')}


def test_every_case_has_its_entry():
    """Each case once, in order, with a sentence."""
    assert [case for case, _, _, _ in table()] == CASES
    assert all(sentence for _, sentence, _, _ in table())


def test_no_entry_is_empty():
    """A case has tests, or a note; a note says why it does not apply, or what is open."""
    for case, _, tests, notes in table():
        assert tests or notes, case
        for note in notes:
            kind, colon, why = note.partition(': ')
            assert kind in ('open', 'does not apply', 'does not apply otherwise', 'does not apply at the door') and why, (case, note)


def test_every_named_test_exists():
    """FILE::NAME leads to a test, and none is named twice for one case."""
    known = {}
    for case, _, tests, _ in table():
        assert len(set(tests)) == len(tests), case
        for test in tests:
            file, _, name = test.partition('::')
            if file not in known:
                known[file] = names_in(TESTS / file)
            assert name in known[file], (case, test)


def test_docstrings_name_known_cases_only():
    """A test that names a case names one of the catalogue, whose entry then has tests."""
    entries = {case: tests for case, _, tests, _ in table()}
    for path in sorted(TESTS.rglob('test_*.py')):
        for name, text in names_in(path).items():
            for letter, number in NAMED.findall(text):
                assert entries.get('%s-%s' % (letter, number)), (path, name, letter, number)


def test_figures(capsys):
    """How much is covered, for who reads the output."""
    covered = sum(bool(tests) for _, _, tests, _ in table())
    untested = sum(note.startswith('open') for _, _, _, notes in table() for note in notes)
    with capsys.disabled():
        print('%d cases: %d with tests, %d that do not apply at all, %d open in whole or in part' % (
            len(CASES), covered, sum(not tests and notes[0].startswith('does not') for _, _, tests, notes in table()), untested))
    assert covered > 200
