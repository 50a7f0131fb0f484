// Publishes numbered messages, ten a call: publish QUEUE COUNT
//
// Each is stored once, whatever fails on the way: the calls are repeated by gRPC itself, as
// retry-service-config.json tells it, and the producer's sequence makes a repeated call free of harm.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"ticketrail.example/connect"
	ticketrail "ticketrail.example/ticketrail/v1"
)

const batch = 10

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: publish QUEUE COUNT")
	}
	queue := os.Args[1]
	count, err := strconv.ParseUint(os.Args[2], 10, 64)
	connect.Must(err)
	publisher := ticketrail.NewPublisherServiceClient(connect.Cluster())

	// Message n has sequence n: a run under the same name goes on where the one before it ended.
	ctx, cancel := within(30 * time.Second)
	producer, err := publisher.OpenProducer(ctx, &ticketrail.OpenProducerRequest{Name: "numbers for " + queue})
	cancel()
	connect.Must(err)

	for first := producer.LastSequence + 1; first <= count; first += batch {
		request := &ticketrail.PublishRequest{Producer: &ticketrail.ProducerSequence{
			ProducerId: producer.ProducerId, Epoch: producer.Epoch, FirstSequence: first,
		}}
		for n := first; n < first+batch && n <= count; n++ {
			request.Items = append(request.Items, &ticketrail.PublishItem{
				RoutingKey: queue, // the name of the queue
				Mandatory:  true,  // an error where there is no such queue
				Message:    &ticketrail.Message{Body: []byte(fmt.Sprint("message ", n))},
			})
		}
		ctx, cancel := within(30 * time.Second)
		_, err := publisher.Publish(ctx, request)
		cancel()
		connect.Must(err)
		// Answered: on the disks of a majority.
		for _, item := range request.Items {
			fmt.Printf("confirmed %s\n", item.Message.Body)
		}
	}
}

func within(limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}
