"""The table of control files, their samples and their page agree."""
import os
import re
import subprocess

import pytest

from qpy.core import controls, grammars, services, tcprules

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORDS = {controls.LINE: 'One line', controls.NUMBER: 'A number', controls.LIST: 'A list', controls.MAP: 'A map',
         controls.TEXT: 'A text', controls.CDB: 'A cdb'}
NAMES = [row[0].decode() for row in controls.TABLE]
WRITTEN = [row for row in controls.TABLE if row[1] != controls.CDB]      # a cdb is made, never written by hand


def default(row):
    """The default of a control file in the words of the manual."""
    value = row[2]
    if row[0] == b'me':
        return 'none, required'
    if value is None:
        return 'none'
    if isinstance(value, tuple):
        dotted = ' if that has a dot' if value[2:] else ''
        return 'the name in me' + dotted + (', else ' + value[1].decode() if value[1] and not dotted else '')
    return value.decode() if isinstance(value, bytes) else str(value)


def page():
    """{name: the lines of its paragraph} of qpy-control.5's FILES."""
    with open(ROOT + '/man/qpy-control.5') as file:
        files = file.read().partition('.Sh FILES\n')[2].partition('.El\n')[0]
    found = {}
    for paragraph in files.split('.It Pa ')[1:]:
        name, *lines = paragraph.splitlines()
        found[name] = lines
    return found


def test_the_page_names_every_file():
    """qpy-control.5 has a paragraph for each control file, in the order of the table, and for no other."""
    assert list(page()) == NAMES


@pytest.mark.parametrize('row', controls.TABLE, ids=NAMES)
def test_the_page_says_what_the_table_says(row):
    """Kind, default and readers in the page are those of the table; then follows an explanation."""
    first, *explanation = page()[row[0].decode()]
    readers = row[3].decode().replace(' ', ', ')
    assert first == '%s; default: %s; read by %s.' % (WORDS[row[1]], default(row), readers)
    assert len(' '.join(explanation)) > 40


def test_the_page_says_when_an_edit_acts():
    """Every reader of a file stands in exactly one line of the table of edits, and the page has these lines."""
    readers = {reader for row in controls.TABLE for reader in row[3].split() if reader != b'all'}
    listed = [reader for names, _ in controls.EDITS for reader in names.split()]
    assert sorted(listed) == sorted(readers)
    with open(ROOT + '/man/qpy-control.5') as file:
        text = file.read()
    for names, when in controls.EDITS:
        assert '.It %s\n%s' % (names.decode().replace(' ', ' , '), when.decode()) in text


def test_samples_are_the_files():
    """control/ holds a sample for each file that people write, and nothing else."""
    assert sorted(os.listdir(ROOT + '/control')) == sorted(row[0].decode() for row in WRITTEN)


@pytest.mark.parametrize('row', WRITTEN, ids=[row[0].decode() for row in WRITTEN])
def test_samples_are_valid_and_explained(row):
    """Each sample can be read by its reader, has a value, and explains itself where the format lets it."""
    name, kind = row[:2]
    with open(os.path.join(os.fsencode(ROOT), b'control', name), 'rb') as file:
        data = file.read()
    first, *rest = data.splitlines()
    explanation = rest if kind in (controls.LINE, controls.NUMBER) else [x for x in data.splitlines() if x[:1] == b'#']
    assert len(b' '.join(explanation)) > 100
    value = {controls.LINE: controls.parse_line, controls.NUMBER: controls.parse_number,
             controls.LIST: controls.parse_list, controls.MAP: controls.parse_map_lines,
             controls.TEXT: controls.parse_text}[kind](data, name)
    if kind == controls.NUMBER:
        assert controls.limit(name, value) == value
    elif kind != controls.MAP:
        assert value


def test_samples_with_a_grammar_of_their_own():
    """The samples of services and tcp.smtp are good services and tcp.smtp files."""
    with open(ROOT + '/control/services', 'rb') as file:
        assert services.parse(file.read())
    with open(ROOT + '/control/tcp.smtp', 'rb') as file:
        assert tcprules.parse(file.read()).verdict(b'127.0.0.1') == (True, ((b'RELAYCLIENT', b''),))


def test_readers_read():
    """Each control file is named by the source of a program, so no setting is without effect."""
    text = subprocess.run(['grep', '-rhoE', "b'[a-z.]+'|control/[a-z.]+", ROOT + '/qpy', '--include=*.py',
                           '--exclude=controls.py'], capture_output=True, check=True).stdout.decode()
    read = {word.strip("b'") for word in text.replace('control/', '').split()} | {
        word[2:-1] for word in text.split() if word.startswith("b'")}
    missing = [name for name in NAMES if name not in read]
    assert missing == []


EXAMPLE = [row for row in controls.TABLE if row[0] in grammars.CHECKS and row[1] != controls.CDB or row[1] == controls.MAP
           or row[0] in (b'authsenders', b'badhelo')]


@pytest.mark.parametrize('row', EXAMPLE, ids=[row[0].decode() for row in EXAMPLE])
def test_what_has_a_grammar_has_an_example(row):
    """A file whose lines have more to them than a word has an example in its paragraph, which is a good file of the kind; services
    has a page."""
    name, kind = row[:2]
    lines = '\n'.join(page()[name.decode()])
    if name == b'services':
        assert 'qpy-services(5)' in lines
        return
    example = re.search(r'^\.Bd -literal -compact\n(.*?)^\.Ed', lines[lines.rindex('.Bd -literal'):] + '\n', re.M | re.S)[1]
    parse = grammars.CHECKS.get(name) or {controls.MAP: controls.parse_map, controls.LIST: controls.parse_list}[kind]
    assert not re.search(r'^\.', example, re.M)        # it would be a macro
    parse(example.replace('\\&', '').encode(), name)
    assert example.strip()
