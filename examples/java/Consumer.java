import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Envelope;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;

/**
 * Takes events from RabbitMQ, and does the work of each once.
 *
 * <p>The inbox has the ids of the messages whose work is done, and is written in the transaction of the work: a repeat
 * finds its id there. A process that is killed loses nothing: what it did not acknowledge comes again.
 *
 * <p>java -cp amqp-client.jar:slf4j-api.jar:postgresql.jar Consumer.java
 */
public class Consumer {
    private static final String INBOX = "INSERT INTO inbox (message_id) VALUES (?) ON CONFLICT DO NOTHING";
    // The body as it came: Postgres reads the JSON.
    private static final String WORK = "INSERT INTO shipments (order_id, step) "
        + "SELECT (event ->> 'order')::bigint, (event ->> 'step')::bigint FROM (SELECT ?::jsonb AS event) AS one";

    private static void once(Connection db, String messageId, String event) throws SQLException {
        try (PreparedStatement inbox = db.prepareStatement(INBOX); PreparedStatement work = db.prepareStatement(WORK)) {
            inbox.setString(1, messageId);
            if (inbox.executeUpdate() == 1) {
                work.setString(1, event);
                work.executeUpdate();
            }
            db.commit();
        } catch (SQLException error) {
            db.rollback();
            throw error;
        }
    }

    public static void main(String[] args) throws Exception {
        Connection db = DriverManager.getConnection(System.getenv("JDBC_URL"));
        db.setAutoCommit(false);
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv("AMQP_URL"));
        Channel channel = factory.newConnection().createChannel();
        channel.basicQos(20);
        for (String queue : System.getenv().getOrDefault("QUEUES", "orders").split(",")) {
            // Called by one thread, one message after the other.
            channel.basicConsume(queue, false, new DefaultConsumer(channel) {
                @Override
                public void handleDelivery(
                    String tag, Envelope envelope, AMQP.BasicProperties properties, byte[] body) throws IOException {
                    try {
                        once(db, properties.getMessageId(), new String(body, StandardCharsets.UTF_8));
                        channel.basicAck(envelope.getDeliveryTag(), false);
                    } catch (SQLException error) {
                        System.out.println("event " + properties.getMessageId() + " failed: " + error.getMessage());
                        // Again at once, until the queue's own limit. (From RabbitMQ 4.3 on basicNack is no try.)
                        channel.basicReject(envelope.getDeliveryTag(), true);
                    }
                }
            });
        }
    }
}
