#!/bin/sh
# Prints the licence of each crate in what dependencies.jq made: its expression, and the texts that it brings. One that
# brings none is under the terms that stand in the texts of others.
set -eu
echo 'pgoutbox is made of these crates, each under its own terms.'
jq -r '.packages[] | [.name, .version, .license // "", .repository // "", .manifest_path] | @tsv' "$1" |
    while IFS="$(printf '\t')" read -r name version license repository manifest; do
        printf '\n%s\n%s %s\n%s\n%s\n' '================================================================================' \
            "$name" "$version" "$license" "$repository"
        for text in "$(dirname "$manifest")"/[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]* "$(dirname "$manifest")"/COPY[Ii][Nn][Gg]* "$(dirname "$manifest")"/NOTICE*; do
            [ -f "$text" ] || continue
            printf '\n--- %s\n\n' "$(basename "$text")"
            cat "$text"
        done
    done
