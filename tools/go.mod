module github.com/bitsandbyes/bitsandbyes/tools

go 1.26

require (
	github.com/mmcloughlin/avo v0.6.0
	golang.org/x/tools v0.39.0 // indirect; older releases do not compile with Go 1.26
)

require (
	golang.org/x/mod v0.30.0 // indirect
	golang.org/x/sync v0.18.0 // indirect
)
