# Of `cargo metadata`: the program, and every crate that is built into it or builds it, each with what it depends on.
(.packages | map({key: .id, value: .}) | from_entries) as $packages
| (.resolve.nodes | map({key: .id, value: [.deps[] | select(any(.dep_kinds[]; .kind != "dev")) | .pkg]}) | from_entries) as $deps
| ([.packages[] | select(.name == "pgoutbox")][0].id) as $root
| {seen: {}, next: [$root]}
| until(.next | length == 0;
    .next[0] as $id
    | if .seen[$id] then .next |= .[1:] else .seen[$id] = true | .next = .next[1:] + $deps[$id] end)
| [.seen | keys[] | {id: ., dependsOn: ($deps[.] | unique)}]
| map(. + ($packages[.id] | {name, version, license, license_file, manifest_path, repository, authors, source, checksum: null}))
| {root: (map(select(.id == $root))[0]), packages: (map(select(.id != $root)) | sort_by(.name, .version))}
