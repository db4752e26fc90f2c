module github.com/upkeep-run/upkeep/dev/cluster

go 1.26.0
