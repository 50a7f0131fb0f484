// Consumes a queue over a stream: consume QUEUE
//
// The node pushes while fewer than Prefetch messages are unsettled; acknowledgements go back as ranges on
// the same stream. gRPC repeats calls but not streams that broke: the loop in main opens the next one, and
// SessionId takes the leases along. Messages may come twice then. Ends with Ctrl-C.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"ticketrail.example/connect"
	ticketrail "ticketrail.example/ticketrail/v1"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: consume QUEUE")
	}
	consumer := ticketrail.NewConsumerServiceClient(connect.Cluster())
	open := &ticketrail.ConsumeOpen{Queue: os.Args[1], Prefetch: proto.Uint32(50)}
	for {
		err := consume(consumer, open)
		switch {
		case err == nil:
			continue // the node stops; the leases go along to the next
		case status.Code(err) == codes.NotFound && len(open.SessionId) > 0:
			open.SessionId = nil // away for too long: what was leased comes again by itself
		case status.Code(err) != codes.Unavailable:
			log.Fatal(err)
		}
		log.Print("the stream broke; once more: ", err)
	}
}

// One stream: works on what comes, until the stream breaks.
func consume(consumer ticketrail.ConsumerServiceClient, open *ticketrail.ConsumeOpen) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := consumer.Consume(ctx)
	if err != nil {
		return err
	}
	// An error of Send is io.EOF only: Recv tells what it was.
	_ = stream.Send(&ticketrail.ConsumeRequest{Frame: &ticketrail.ConsumeRequest_Open{Open: open}})
	for {
		received, err := stream.Recv()
		if err != nil {
			return err
		}
		switch frame := received.Frame.(type) {
		case *ticketrail.ConsumeResponse_Opened:
			open.SessionId = frame.Opened.SessionId
		case *ticketrail.ConsumeResponse_Deliveries:
			deliveries := frame.Deliveries.Deliveries
			for _, delivery := range deliveries {
				fmt.Printf("worked on %s\n", delivery.Message.Body)
			}
			done := &ticketrail.SettleRange{
				FirstDeliveryId: deliveries[0].DeliveryId,
				LastDeliveryId:  deliveries[len(deliveries)-1].DeliveryId,
				Kind:            ticketrail.SettleKind_SETTLE_KIND_ACK,
			}
			settlement := &ticketrail.ConsumeSettlement{Ranges: []*ticketrail.SettleRange{done}}
			_ = stream.Send(&ticketrail.ConsumeRequest{Frame: &ticketrail.ConsumeRequest_Settlement{Settlement: settlement}})
		case *ticketrail.ConsumeResponse_GoAway:
			return nil
		}
	}
}
