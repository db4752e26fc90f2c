module github.com/upkeep-run/upkeep/dev/kit

go 1.26.0
