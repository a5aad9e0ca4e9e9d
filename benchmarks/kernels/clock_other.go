//go:build !linux

package main

// threadClock is the time that passes: the least of many short windows comes near to that of a thread that is alone.
func threadClock() clock { return wallClock() }
