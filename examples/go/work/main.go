// Takes messages and acknowledges them, the simplest way: work QUEUE
//
// A lease is an answer of Receive and its receipt settles it, on any node. What is not settled before its
// lease ends comes again, so the work must bear being done twice. Ends with Ctrl-C.
package main

import (
	"context"
	"fmt"
	"log"
	"math/rand"
	"os"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"ticketrail.example/connect"
	ticketrail "ticketrail.example/ticketrail/v1"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: work QUEUE")
	}
	queue := os.Args[1]
	consumer := ticketrail.NewConsumerServiceClient(connect.Cluster())
	worker := rand.New(rand.NewSource(time.Now().UnixNano())).Uint64()
	for attempt := 1; ; attempt++ {
		// The attempt id makes a repeated call give the same leases once more, and no others.
		ctx, cancel := within(30 * time.Second)
		received, err := consumer.Receive(ctx, &ticketrail.ReceiveRequest{
			Queue: queue, MaxMessages: proto.Uint32(10), Wait: durationpb.New(10 * time.Second),
			ReceiveAttemptId: fmt.Sprintf("%x-%d", worker, attempt),
		})
		cancel()
		connect.Must(err)
		if len(received.Deliveries) == 0 {
			continue // none came within the wait
		}

		settle := &ticketrail.SettleRequest{Queue: queue}
		for _, delivery := range received.Deliveries {
			fmt.Printf("worked on %s\n", delivery.Message.Body)
			// NACK gives a message back, REJECT gives it up to the dead letters.
			settle.Items = append(settle.Items, &ticketrail.SettleItem{
				Receipt: delivery.Receipt, Kind: ticketrail.SettleKind_SETTLE_KIND_ACK,
			})
		}

		ctx, cancel = within(30 * time.Second)
		settled, err := consumer.Settle(ctx, settle)
		cancel()
		connect.Must(err)
		for i, result := range settled.Results {
			body := received.Deliveries[i].Message.Body
			switch result.Outcome {
			case ticketrail.SettleOutcome_SETTLE_OUTCOME_OK, ticketrail.SettleOutcome_SETTLE_OUTCOME_ALREADY_SETTLED:
				fmt.Printf("acknowledged %s\n", body)
			default:
				fmt.Printf("comes again: %s\n", body)
			}
		}
	}
}

func within(limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}
