#!/usr/bin/env python3
"""A second opinion on an exported audit log, which shares nothing with the service but the formats.

usage: verify-archive.py PUB.pem DIR|FILE [DIR|FILE ...]

For each archive it prints "DIR ok", or "DIR bad: " and the first thing that is wrong. It makes the Merkle tree of RFC 6962
anew from the leaves, reads each leaf's CBOR and compares the readable part with it, and has openssl check the signatures.
A FILE is a bundle of `ramzban audit prove`, of which it checks the inclusion proofs (RFC 9162, section 2.1.3.2), or a list
of consistency proofs (section 2.1.4.2): [{"from": size, "to": size, "old": root, "new": root, "proof": [hash, ...]}, ...].
"""
import base64, datetime, functools, hashlib, json, os, re, subprocess, sys

NAMES = {1: "time", 2: "node", 3: "actor", 4: "action", 5: "outcome", 6: "reason", 7: "serial", 8: "use", 9: "request_id",
         10: "commitment", 11: "revision", 12: "next", 13: "budget", 14: "state", 15: "key", 16: "also", 17: "tree",
         18: "proposal", 19: "document", 20: "signature", 21: "certificate", 22: "detail"}
ORDER = ["time", "node", "actor", "action", "outcome", "reason", "serial", "use", "request_id", "commitment", "revision", "next",
         "budget", "state", "key", "also", "tree", "detail", "proposal", "document", "signature", "certificate"]
PARTS = {1: "serial", 2: "commitment", 3: "revision", 4: "next", 5: "state"}
HEAD = {1: "size", 2: "root"}


def check(holds, what):
    if not holds:
        raise ValueError(what)


def cbor(b, i):
    """Reads one value (RFC 8949, definite lengths); returns it and where it ends."""
    major, n = b[i] >> 5, b[i] & 31
    i += 1
    if n >= 24:
        check(n < 28, "CBOR length")
        width = 1 << (n - 24)
        n, i = int.from_bytes(b[i:i + width], "big"), i + width
    if major == 0:
        return n, i
    if major == 1:
        return -1 - n, i
    if major in (2, 3):
        check(i + n <= len(b), "CBOR is cut")
        return (b[i:i + n] if major == 2 else b[i:i + n].decode()), i + n
    if major == 4:
        items = []
        for _ in range(n):
            item, i = cbor(b, i)
            items.append(item)
        return items, i
    check(major == 5, "CBOR type")
    found = {}
    for _ in range(n):
        key, i = cbor(b, i)
        found[key], i = cbor(b, i)
    return found, i


def b64(b):
    return base64.b64encode(b).decode()


def unb64(text):
    b = base64.b64decode(text, validate=True)
    check(b64(b) == text, "base64")
    return b


def said(value, names):
    return {names[k]: b64(v) if isinstance(v, bytes) else v for k, v in value.items()}


def line(index, leaf):
    """The line that belongs to a leaf."""
    e, end = cbor(leaf, 0)
    check(end == len(leaf) and e.pop(0) == 1, "entry")
    check(set(e) <= set(NAMES), "entry's fields")
    out = {NAMES[k]: v for k, v in e.items()}
    at = datetime.datetime.fromtimestamp(out["time"] // 1000, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    out["time"] = at + (".%03d" % (out["time"] % 1000)).rstrip("0").rstrip(".") + "Z"
    if "also" in out:
        out["also"] = [said(p, PARTS) for p in out["also"]]
    if "tree" in out:
        out["tree"] = said(out["tree"], HEAD)
    if "document" in out:
        out["document"] = out["document"].decode()
    ordered = {"index": index, "leaf": leaf} | {name: out[name] for name in ORDER if name in out}
    text = {k: b64(v) if isinstance(v, bytes) else v for k, v in ordered.items()}
    return json.dumps(text, separators=(",", ":"), ensure_ascii=False) + "\n", out["node"]


def root(hashes):
    """RFC 6962, section 2.1."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return hashlib.sha256(b"\x01" + root(hashes[:k]) + root(hashes[k:])).digest()


@functools.cache
def der(pub):
    return openssl("pkey", "-pubin", "-in", pub, "-outform", "DER").stdout


def openssl(*args):
    return subprocess.run(("openssl",) + args, capture_output=True)


def checkpoint(path, node, pub):
    """Opens a signed note; returns size and root."""
    note = open(path, "rb").read().decode()
    text, _, signatures = note.rpartition("\n\n")
    text += "\n"
    lines = text.split("\n")
    more = "\n".join(lines[4:])
    check(re.fullmatch(r"(ring [1-9]\d*\n)?(officers [1-9]\d*\n)?(witness [1-9]\d*\n)?", more), "checkpoint's lines")
    origin, size, tree, at = lines[:4]
    check(re.fullmatch(r"ramzban/[^/]+/" + re.escape(node), origin), "origin")
    check(str(int(size)) == size and re.fullmatch(r"time \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at), "size or time")
    m = re.fullmatch("\u2014 (\\S+) (\\S+)\n", signatures)
    check(m and m[1] == origin, "signature line")
    sig = unb64(m[2])
    check(sig[:4] == hashlib.sha256(der(pub)).digest()[:4], "key ID")
    for name, content in (("text", text.encode()), ("sig", sig[4:])):
        with open(os.path.join(scratch, name), "wb") as f:
            f.write(content)
    ok = openssl("dgst", "-sha256", "-verify", pub, "-signature", os.path.join(scratch, "sig"), os.path.join(scratch, "text"))
    check(ok.returncode == 0, "signature")
    return int(size), unb64(tree)


def verify(folder, pub):
    for node in sorted(os.listdir(folder)):
        where = os.path.join(folder, node)
        files = sorted(os.listdir(where))
        leaves, ends = [], set()
        for name in (f for f in files if f.startswith("entries-")):
            first, count = int(name[8:20]), int(name[21:33])
            check(first == len(leaves), name + ": a gap")
            hashes = b""
            content = open(os.path.join(where, name), "rb").read().decode()
            for text in content.splitlines(keepends=True):
                leaf = unb64(json.loads(text)["leaf"])
                want, of = line(len(leaves), leaf)
                check(text == want and of == node, "%s, entry %d" % (name, len(leaves)))
                leaves.append(hashlib.sha256(b"\x00" + leaf).digest())
                hashes += leaves[-1]
            check(len(leaves) == first + count, name + ": entries are missing")
            check(open(os.path.join(where, "hashes" + name[7:33] + ".bin"), "rb").read() == hashes, name + ": hashes")
            ends.add(len(leaves))
        signed = set()
        for name in (f for f in files if f.startswith("checkpoint-")):
            size, tree = checkpoint(os.path.join(where, name), node, pub)
            check(name == "checkpoint-%012d.txt" % size and size <= len(leaves), name)
            check(root(leaves[:size]) == tree, name + ": root")
            signed.add(size)
        check(ends and max(ends) in signed, "the end is not signed")
        check(all(end in signed or end % 10000 == 0 for end in ends), "an export's end is not signed")
        if "keys.pem" in files:
            check(open(os.path.join(where, "keys.pem"), "rb").read() == open(pub, "rb").read(), "keys.pem")


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def included(index, size, leaf, path, tree):
    """RFC 9162, section 2.1.3.2."""
    check(index < size, "index")
    fn, sn, r = index, size - 1, hashlib.sha256(b"\x00" + leaf).digest()
    for p in path:
        check(sn > 0, "the proof is too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    check(sn == 0 and r == tree, "inclusion")


def consistent(first, second, old, new, path):
    """RFC 9162, section 2.1.4.2."""
    check(0 < first <= second, "sizes")
    if first == second:
        check(not path and old == new, "consistency")
        return
    if first & (first - 1) == 0:
        path = [old] + path
    check(path, "the proof is empty")
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        check(sn > 0, "the proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    check(sn == 0 and fr == old and sr == new, "consistency")


def verify_file(path, pub):
    found = json.load(open(path, encoding="utf-8"))
    if isinstance(found, list):
        check(found, "no proofs")
        for p in found:
            consistent(p["from"], p["to"], unb64(p["old"]), unb64(p["new"]), [unb64(h) for h in p["proof"]])
        return
    check(found["ramzban_proof"] == 1 and found["entries"], "bundle")
    signed = {}
    for node, text in found["checkpoints"].items():
        note = os.path.join(scratch, "note")
        with open(note, "wb") as f:
            f.write(text.encode())
        signed[node] = checkpoint(note, node, pub)
    for entry in found["entries"]:
        leaf, path = unb64(entry["leaf"]), [unb64(h) for h in entry.pop("proof")]
        want, node = line(entry["index"], leaf)
        check(json.loads(want) == entry, "what an entry says")
        size, tree = signed[node]
        included(entry["index"], size, leaf, path, tree)


if __name__ == "__main__":
    import tempfile
    with tempfile.TemporaryDirectory() as scratch:
        for folder in sys.argv[2:]:
            try:
                (verify if os.path.isdir(folder) else verify_file)(folder, sys.argv[1])
                print(folder, "ok")
            except Exception as wrong:  # whatever cannot be read is bad
                print(folder, "bad:", str(wrong).replace("\n", " "))
