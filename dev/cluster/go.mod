module github.com/upkeep-run/upkeep/dev/cluster

go 1.26.0

replace github.com/upkeep-run/upkeep/dev/kit => ../kit

require github.com/upkeep-run/upkeep/dev/kit v0.0.0-00010101000000-000000000000
