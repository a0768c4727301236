# CycloneDX 1.5 of what dependencies.jq makes.
def purl: "pkg:cargo/\(.name)@\(.version)";
def component: {
    type: "library", "bom-ref": purl, name, version, purl: purl,
    licenses: (if .license then [{expression: (.license | gsub("/"; " OR "))}] else [] end),
    externalReferences: (if .repository then [{type: "vcs", url: .repository}] else [] end)
};
([.root] + .packages | map({key: .id, value: purl}) | from_entries) as $purls
| {
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: {
        timestamp: $at,
        component: (.root | component | .type = "application")
    },
    components: (.packages | map(component)),
    dependencies: ([.root] + .packages | map({ref: purl, dependsOn: (.dependsOn | map($purls[.]) | unique)}))
}
