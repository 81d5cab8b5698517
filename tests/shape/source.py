"""The source as the shape tests see it: imports and system calls, read by ast and never run."""
import ast
import functools
import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SEAM = ('unix', 'unix_kernel', 'unix_tls', 'unix_passwd', 'unix_argon2')


@functools.cache
def modules():
    """{dotted name: path} of every module of qpy."""
    found = {}
    for directory, _, files in os.walk(os.path.join(ROOT, 'qpy')):
        for name in files:
            if name.endswith('.py'):
                path = os.path.join(directory, name)
                dotted = os.path.relpath(path, ROOT)[:-3].replace(os.sep, '.')
                found[dotted.removesuffix('.__init__')] = path
    return found


@functools.cache
def tree(module):
    """The syntax tree of a module."""
    with open(modules()[module]) as file:
        return ast.parse(file.read(), modules()[module])


@functools.cache
def imports(module):
    """{module imported anywhere in it, at the top or later: {names taken from it}}."""
    found = {}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, set())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, '%s: relative import' % module
            for alias in node.names:
                whole = '%s.%s' % (node.module, alias.name)
                if whole in modules():
                    found.setdefault(whole, set())
                else:
                    found.setdefault(node.module, set()).add(alias.name)
    return found


def reached(module):
    """Every module of qpy that this one imports, directly or not."""
    seen, waiting = set(), [module]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        waiting += [name for name in imports(here) if name in modules()]
    return seen


def calls(module):
    """{'unix.read', ...}: what a module takes from the seam; constants, which are upper case, left out."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in SEAM:
            if not node.attr.isupper() and node.attr != 'error':
                found.add('%s.%s' % (node.value.id, node.attr))
    return found


def launchers():
    """{name in bin/: its text}."""
    found = {}
    for name in sorted(os.listdir(os.path.join(ROOT, 'bin'))):
        with open(os.path.join(ROOT, 'bin', name)) as file:
            found[name] = file.read()
    return found


def program_module(text):
    """The module that a launcher's text runs."""
    return text.rstrip('\n').rpartition('\n')[2].split("'")[1]
