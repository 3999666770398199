#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Reads /metrics strictly, and compares it with documents and with etcd's. For tests/cli/metrics.sh.

  metrics.py check FILE [openmetrics]        syntax and the rules of the format; prints what is wrong
  metrics.py value FILE NAME [LABEL=VALUE…]  the sum of the series with these labels
  metrics.py documented FILE DOC             every name is in DOC, and DOC's tables name no others of ours, types included
  metrics.py dashboard FILE JSON             every metric that a panel or a variable draws exists in FILE
  metrics.py alerts FILE YML DOC             the same for alert rules; DOC names each alert and no other
  metrics.py like FILE ETCD DOC              every etcd_* and grpc_server_* of ETCD is in FILE with its type, labels and buckets,
                                             or in DOC's table of what is not exported
"""
import fnmatch
import itertools
import json
import re
import sys

NAME = r'[a-zA-Z_:][a-zA-Z0-9_:]*'
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf'({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)$')
NUMBER = re.compile(r'(?:[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|NaN)$')
SUFFIXES = ('_bucket', '_sum', '_count')


class Family:
    def __init__(self, name):
        self.name, self.kind, self.help, self.samples = name, None, None, []

    def labels(self):
        """The names of the labels of its series, without le."""
        return {tuple(sorted(k for k in labels if k != 'le')) for _, labels, _ in self.samples}

    def bounds(self):
        return {labels['le'] for _, labels, _ in self.samples if 'le' in labels}


def parse(path, openmetrics=False):
    """Gives (families by name, complaints)."""
    families, bad, seen = {}, [], set()
    text = open(path, encoding='utf-8', newline='').read()
    lines = text.split('\n')
    if lines.pop() != '':
        bad.append('the last line does not end')
    if openmetrics:
        if not lines or lines.pop() != '# EOF':
            bad.append('there is no # EOF at the end')
    current = None
    for number, line in enumerate(lines, 1):
        say = lambda what: bad.append(f'line {number}: {what}: {line[:120]}')
        if line.startswith('#'):
            match = re.match(rf'# (HELP|TYPE) ({NAME}) (.+)$', line)
            if not match:
                say('neither HELP nor TYPE')
                continue
            what, name, rest = match.groups()
            if what == 'HELP':
                if name in families:
                    say('a family comes twice')
                current = families[name] = Family(name)
                current.help = rest
                if re.search(r'\\(?![\\n])', rest):
                    say('a bad escape in HELP')
            elif current is None or current.name != name or current.kind or current.samples:
                say('TYPE does not follow HELP')
            else:
                current.kind = rest
                kinds = ('counter', 'gauge', 'histogram') + (('unknown',) if openmetrics else ())
                if rest not in kinds:
                    say('an unknown type')
            continue
        match = SAMPLE.match(line)
        if not match:
            say('no sample')
            continue
        name, number_text = match.group(1), match.group(match.lastindex)
        pairs = re.findall(LABEL, match.group(2) or '')
        labels = dict(pairs)
        if len(labels) != len(pairs):
            say('a label comes twice')
        if not NUMBER.match(number_text):
            say('not a number')
            continue
        key = (name, tuple(sorted(labels.items())))
        if key in seen:
            say('a series comes twice')
        seen.add(key)
        base = name
        if current and current.kind == 'histogram':
            base = next((name[:-len(s)] for s in SUFFIXES if name.endswith(s)), name)
        elif openmetrics and current and current.kind == 'counter':
            base = name[:-len('_total')] if name.endswith('_total') else name + '?'
        if current is None or current.name != base or not current.kind:
            say('a sample outside of its family')
            continue
        if current.kind == 'counter' and float(number_text) < 0:
            say('a counter is negative')
        current.samples.append((name, labels, float(number_text)))
    for family in families.values():
        if not family.samples:
            bad.append(f'{family.name}: no samples')
        if len(family.labels()) > 1:
            bad.append(f'{family.name}: its series have different labels {family.labels()}')
        if family.kind == 'histogram':
            bad += histogram(family)
        elif any('le' in labels for _, labels, _ in family.samples):
            bad.append(f'{family.name}: le outside of a histogram')
    return families, bad


def histogram(family):
    def series(sample):
        return sorted((k, v) for k, v in sample[1].items() if k != 'le')

    bad = []
    for labels, group in itertools.groupby(sorted(family.samples, key=series), key=series):
        group = list(group)
        buckets = [(float(s[1].get('le', 'nan')), s[2]) for s in group if s[0].endswith('_bucket')]
        sums = [s[2] for s in group if s[0].endswith('_sum')]
        counts = [s[2] for s in group if s[0].endswith('_count')]
        where = f'{family.name}{dict(labels)}'
        if len(sums) != 1 or len(counts) != 1 or not buckets:
            bad.append(f'{where}: not one sum, one count and some buckets')
        elif [b[0] for b in buckets] != sorted({b[0] for b in buckets}) or buckets[-1][0] != float('inf'):
            bad.append(f'{where}: bounds do not rise to +Inf')
        elif [b[1] for b in buckets] != sorted(b[1] for b in buckets) or buckets[-1][1] != counts[0]:
            bad.append(f'{where}: not cumulative, or +Inf is not the count')
        elif counts[0] == 0 and sums[0] != 0:
            bad.append(f'{where}: a sum of nothing')
    return bad


def sections(doc):
    """The names and types in DOC's tables, by the title they stand under."""
    found, title = {}, ''
    for line in open(doc, encoding='utf-8'):
        if line.startswith('#'):
            title = line.strip('# \n')
        elif line.startswith('What real etcd exports'):
            title = 'missing'
        elif line.startswith('| `'):
            cells = [c.strip() for c in re.split(r'(?<!\\)\|', line.strip().strip('|'))]
            for name in re.findall(r'`([^`]+)`', cells[0]):
                found.setdefault(title, {})[name] = cells[1]
    return found


def documented_names(doc):
    return {name: kind for title, rows in sections(doc).items() if title not in ('missing', 'Health checks')
            for name, kind in rows.items()}


def cmd_check(path, form=''):
    families, bad = parse(path, form == 'openmetrics')
    return bad or ([] if len(families) > 50 else [f'only {len(families)} families'])


def cmd_value(path, name, *labels):
    families, _ = parse(path)
    wanted = dict(label.split('=', 1) for label in labels)
    values = [value for family in families.values() for sample, has, value in family.samples
              if sample == name and all(has.get(k) == v for k, v in wanted.items())]
    if not values:
        return [f'there is no {name} {wanted}']
    total = sum(values)
    print(int(total) if total == int(total) else total)
    return []


# Only there once something happened, or with an option: a fresh server does not show them.
SOMETIMES = {'etcd_debugging_server_alarms', 'kineshim_tls_certificate_not_after_seconds', 'grpc_server_handling_seconds'}


def cmd_documented(path, doc):
    families, _ = parse(path)
    text = open(doc, encoding='utf-8').read()
    names = documented_names(doc)
    bad = [f'{doc} does not describe {name}' for name in families if f'`{name}`' not in text]
    bad += [f'{doc} describes {name}, which is not exported' for name in names
            if name not in families and name not in SOMETIMES]
    bad += [f'{doc}: {name} is a {families[name].kind}' for name, kind in names.items()
            if name in families and families[name].kind != kind]
    return bad


def used_names(expression):
    expression = re.sub(r'"[^"]*"|\{[^}]*\}|\b(?:by|without|on|ignoring) *\([^)]*\)|\[[^]]*\]', ' ', expression)
    return {name for name in re.findall(NAME, expression) if '_' in name and name != 'histogram_quantile'}


def bad_selectors(families, expression):
    """Labels that a metric of ours has not, and values that it never has."""
    bad = []
    for name, selector in re.findall(rf'({NAME})\{{([^}}]*)\}}', expression):
        base = next((name[:-len(s)] for s in SUFFIXES if name.endswith(s)), name)
        family = families.get(name) or families.get(base)
        for label, sign, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selector) if family else []:
            values = {labels[label] for _, labels, _ in family.samples if label in labels}
            if label in ('job', 'instance'):
                continue
            if not values:
                bad.append(f'{name} has no label {label}')
            bad += [f'{name} has never {label}="{v}"' for v in value.split('|')
                    if sign in ('=', '=~') and values and '$' not in v and '.' not in v and v not in values]
    return bad


def exists(families, name):
    base = next((name[:-len(s)] for s in SUFFIXES if name.endswith(s)), name)
    return name in SOMETIMES or base in SOMETIMES or (name in families and families[name].kind != 'histogram') or \
        (base in families and families[base].kind == 'histogram')


def cmd_dashboard(path, board):
    families, _ = parse(path)
    document = json.load(open(board, encoding='utf-8'))
    bad, drawn = [], set()
    for key in ('uid', 'title', 'panels', 'templating', 'schemaVersion'):
        if not document.get(key):
            bad.append(f'no {key}')
    ids = [panel['id'] for panel in document['panels']]
    if len(ids) != len(set(ids)):
        bad.append('two panels have one id')
    taken = set()
    for panel in document['panels']:
        grid = panel['gridPos']
        cells = {(x, y) for x in range(grid['x'], grid['x'] + grid['w']) for y in range(grid['y'], grid['y'] + grid['h'])}
        if cells & taken or grid['x'] + grid['w'] > 24:
            bad.append(f'{panel["title"]}: overlaps another panel')
        taken |= cells
        for target in panel.get('targets', []):
            drawn |= used_names(target['expr'])
            bad += bad_selectors(families, target['expr'])
            if target['datasource']['uid'] != '${datasource}':
                bad.append(f'{panel["title"]}: its data source is fixed')
    titles = {panel['title'] for panel in document['panels'] if panel['type'] == 'row'}
    for title in ('Traffic', 'Latency', 'Database', 'Several instances', 'Watches', 'Leases', 'Process'):
        if title not in titles:
            bad.append(f'no row {title}')
    bad += [f'draws {name}, which is not exported' for name in sorted(drawn) if not exists(families, name)]
    return bad or ([] if len(drawn) > 40 else [f'draws only {len(drawn)} metrics'])


def cmd_alerts(path, rules, doc):
    families, _ = parse(path)
    text, names, bad = open(rules, encoding='utf-8').read(), set(), []
    for block in text.split('- alert: ')[1:]:
        alert = block.split('\n', 1)[0]
        names.add(alert)
        match = re.search(r'expr: (?:\|\n)?(.*?)\n(?=        (?:for|labels|annotations):)', block, re.S)
        if not match or 'summary:' not in block or 'severity:' not in block:
            bad.append(f'{alert}: no expression, severity or summary')
            continue
        bad += [f'{alert}: {name} is not exported' for name in used_names(match.group(1)) if not exists(families, name)]
        bad += [f'{alert}: {what}' for what in bad_selectors(families, match.group(1))]
    told = set(re.findall(r'`(Kineshim\w+)`', open(doc, encoding='utf-8').read()))
    return bad + [f'alert {name} is in only one of the two' for name in sorted(names ^ told)]


def cmd_like(path, etcd, doc):
    ours, _ = parse(path)
    theirs, _ = parse(etcd)
    missing = list(sections(doc)['missing'])
    # Globs, with etcd_x_{a,b}_total for several names.
    globs = []
    for pattern in missing:
        match = re.match(r'(.*)\{(.*)\}(.*)$', pattern)
        globs += [match.group(1) + part + match.group(3) for part in match.group(2).split(',')] if match else [pattern]
    bad = []
    for name, family in theirs.items():
        if not name.startswith(('etcd_', 'grpc_server_')) or any(fnmatch.fnmatchcase(name, glob) for glob in globs):
            continue
        own = ours.get(name)
        if not own:
            bad.append(f'{name} is missing')
        elif own.kind != family.kind:
            bad.append(f'{name} is a {own.kind}, etcd\'s a {family.kind}')
        elif own.labels() != family.labels():
            bad.append(f'{name} has labels {own.labels()}, etcd\'s {family.labels()}')
        elif {float(b) for b in own.bounds()} != {float(b) for b in family.bounds()}:
            bad.append(f'{name} has other buckets than etcd\'s')
    # Each method and code that etcd counts is counted from the start.
    for name in ('grpc_server_started_total', 'grpc_server_handled_total'):
        have = {tuple(sorted(labels.items())) for _, labels, _ in ours[name].samples} if name in ours else set()
        lost = [labels for _, labels, _ in theirs[name].samples if tuple(sorted(labels.items())) not in have]
        bad += [f'{name} lacks {labels}' for labels in lost[:5]]
    return bad


def main():
    commands = {key[4:]: function for key, function in globals().items() if key.startswith('cmd_')}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    complaints = commands[sys.argv[1]](*sys.argv[2:])
    for complaint in complaints[:20]:
        print(complaint, file=sys.stderr)
    sys.exit(1 if complaints else 0)


main()
