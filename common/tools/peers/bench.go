// What bench_scheduler measures, in Go and on one P. Prints one figure.
//
//	yield GOROUTINES TIMES   nanoseconds of CPU for each runtime.Gosched
//	spawn TOGETHER TIMES     the same for each goroutine that begins and ends
//	parked GOROUTINES        resident bytes of each goroutine that waits
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"
)

// User and system time of all threads, in nanoseconds.
func cpuTime() int64 {
	const processCPU = 2 // CLOCK_PROCESS_CPUTIME_ID
	var time syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, processCPU,
		uintptr(unsafe.Pointer(&time)), 0)
	if errno != 0 {
		panic(errno)
	}
	return time.Nano()
}

func residentBytes() int {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		panic(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		panic(err)
	}
	return pages * os.Getpagesize()
}

func costOfEach(operations int, body func()) float64 {
	start := cpuTime()
	body()
	return float64(cpuTime()-start) / float64(operations)
}

func yield(goroutines, times int) float64 {
	return costOfEach(goroutines*times, func() {
		var all sync.WaitGroup
		all.Add(goroutines)
		for i := 0; i < goroutines; i++ {
			go func() {
				for i := 0; i < times; i++ {
					runtime.Gosched()
				}
				all.Done()
			}()
		}
		all.Wait()
	})
}

func spawn(together, times int) float64 {
	ended := 0
	return costOfEach(together*times, func() {
		for i := 1; i <= times; i++ {
			for j := 0; j < together; j++ {
				go func() { ended++ }()
			}
			for ended < i*together {
				runtime.Gosched()
			}
		}
	})
}

func parked(goroutines int) float64 {
	never := make(chan int)
	before := residentBytes()
	for i := 0; i < goroutines; i++ {
		go func() { <-never }()
	}
	for i := 0; i < 2; i++ {
		runtime.Gosched()
	}
	return float64(residentBytes()-before) / float64(goroutines)
}

func number(i int) int {
	n, err := strconv.Atoi(os.Args[i])
	if err != nil {
		panic(err)
	}
	return n
}

func main() {
	runtime.GOMAXPROCS(1)
	switch os.Args[1] {
	case "yield":
		fmt.Println(yield(number(2), number(3)))
	case "spawn":
		fmt.Println(spawn(number(2), number(3)))
	case "parked":
		fmt.Println(parked(number(2)))
	}
}
