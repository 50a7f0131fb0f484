// Package connect reaches a cluster: one connection to all its nodes, any of which serves any call.
package connect

import (
	"log"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// What to repeat and how often; seen from the root of the repository.
const serviceConfig = "proto/retry-service-config.json"

// Cluster connects to the nodes that TICKETRAIL_NODES names, or to those of `ticketrail dev`.
func Cluster() *grpc.ClientConn {
	nodes := os.Getenv("TICKETRAIL_NODES")
	if nodes == "" {
		nodes = "127.0.0.1:7400,127.0.0.1:7401,127.0.0.1:7402"
	}
	var addresses []resolver.Address
	for _, node := range strings.Split(nodes, ",") {
		addresses = append(addresses, resolver.Address{Addr: node})
	}
	known := manual.NewBuilderWithScheme("nodes")
	known.InitialState(resolver.State{Addresses: addresses})

	retry, err := os.ReadFile(serviceConfig)
	Must(err)
	connection, err := grpc.Dial("nodes:///ticketrail", grpc.WithResolvers(known), grpc.WithInsecure(),
		grpc.WithDefaultServiceConfig(string(retry)))
	Must(err)
	return connection
}

// Must ends the program on an error.
func Must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
